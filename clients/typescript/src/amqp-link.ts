/** Keeps a session with the broker: connects, and connects again for as long as the component lives. */
import type { ConsumeMessage } from "amqplib";
import { AmqpSession } from "./amqp-session.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Logger } from "./logger.ts";

export interface AmqpLinkOptions {
  id: string;
  type: string;
  prefetch: number;
  incarnation(): number | undefined;
  onReached(): Promise<void>;
  onMissing(): void;
  onMessage(message: ConsumeMessage, session: AmqpSession): void;
  onReturned(messageId: string): void;
  onVoidRenewal(): void;
  /** A session is open, or has ended. */
  onSession(session: AmqpSession | undefined): void;
  /** Connecting failed once more. */
  onFailed(error: unknown): void;
  /** Connecting failed several times in a row: the address may have changed. */
  onTrouble(): void;
  logger: Logger;
}

const retry = { firstMs: 100, maxMs: 5_000 };
/** About half a minute of failing between two questions for the address. */
const troubleEvery = 8;

export class AmqpLink {
  readonly #options: AmqpLinkOptions;
  readonly #ending = new AbortController();
  #url: string | undefined;
  #session: AmqpSession | undefined;
  #loop: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;
  #isRunning = false;

  constructor(options: AmqpLinkOptions) {
    this.#options = options;
  }

  get session(): AmqpSession | undefined {
    return this.#session;
  }

  /** Starts connecting when the first address is known; another one counts from the next connection on. */
  connectTo(url: string): void {
    const isNew = url !== this.#url;
    this.#url = url;
    if (!this.#isRunning) {
      this.#isRunning = true;
      this.#loop = this.#run();
    } else if (isNew) {
      this.#wake?.();
    }
  }

  async close(): Promise<void> {
    this.#ending.abort();
    await this.#session?.close();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { signal } = this.#ending;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      if (await this.#live()) attempt = 0;
      if (signal.aborted) return;
      if ((attempt + 1) % troubleEvery === 0) this.#options.onTrouble();
      const early = new AbortController();
      this.#wake = () => early.abort();
      await pause(backoffMs(attempt, retry), signal, early.signal);
      this.#wake = undefined;
    }
  }

  /** One session from start to end. @returns whether it was ever open. */
  async #live(): Promise<boolean> {
    const { onSession, onFailed, logger } = this.#options;
    const session = new AmqpSession({ ...this.#options, url: this.#url as string });
    try {
      await session.open();
    } catch (error) {
      logger.debug({ error }, "the broker cannot be reached");
      onFailed(error);
      return false;
    }
    if (this.#ending.signal.aborted) {
      await session.close();
      return false;
    }
    this.#session = session;
    onSession(session);
    const reason = await session.ended;
    this.#session = undefined;
    onSession(undefined);
    if (!this.#ending.signal.aborted) logger.info({ reason: String(reason) }, "the connection to the broker ended");
    await session.close();
    return true;
  }
}
