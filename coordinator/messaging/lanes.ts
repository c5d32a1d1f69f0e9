/** What is run in one lane runs one after another, in the order of the calls; lanes do not wait for each other. */
export class Lanes {
  readonly #ends = new Map<string, Promise<void>>();

  async run(lane: string, work: () => Promise<void>): Promise<void> {
    const done = (this.#ends.get(lane) ?? Promise.resolve()).then(work);
    const end = done.catch(() => undefined);
    this.#ends.set(lane, end);
    try {
      await done;
    } finally {
      if (this.#ends.get(lane) === end) this.#ends.delete(lane);
    }
  }
}
