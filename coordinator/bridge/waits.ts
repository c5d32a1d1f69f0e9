/** The requests that wait for something, so that a stop ends their waiting. */

export class Waits {
  readonly #open = new Set<AbortController>();
  readonly #polls = new Set<AbortController>();
  #isEnding = false;

  /**
   * @param isPoll whether it waits for news, so that "nothing new" answers it at any time
   * @returns what ends the waiting, to be handed to `delete` when the request is over
   */
  add(isPoll: boolean): AbortController {
    const wait = new AbortController();
    if (isPoll && this.#isEnding) wait.abort();
    this.#open.add(wait);
    if (isPoll) this.#polls.add(wait);
    return wait;
  }

  delete(wait: AbortController): void {
    this.#open.delete(wait);
    this.#polls.delete(wait);
  }

  /** Ends those that wait for news, also those that come from now on. */
  endPolls(): void {
    this.#isEnding = true;
    for (const wait of [...this.#polls]) wait.abort();
  }

  endAll(): void {
    for (const wait of [...this.#open]) wait.abort();
  }
}
