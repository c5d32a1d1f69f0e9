/** Work that nobody waits for, but that is awaited at the end and whose failure is logged. */
import type { Logger } from "pino";

export class Background {
  readonly #logger: Logger;
  readonly #running = new Set<Promise<void>>();

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** @param what for the log, when it fails. It is not tried again: whoever starts it must come by once more. */
  run(what: string, work: () => Promise<unknown>): void {
    const running = work().then(
      () => undefined,
      (error: Error) => this.#logger.warn({ reason: error.message }, `could not ${what}`),
    );
    this.#running.add(running);
    void running.then(() => this.#running.delete(running));
  }

  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
