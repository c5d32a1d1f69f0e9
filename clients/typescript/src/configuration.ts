/** The component's effective configuration: read, checked, given to the component, reported on, kept on disk. */
import { setMaxListeners } from "node:events";
import { isMusterError, MusterError } from "../../../config-db/errors.ts";
import type { Settings } from "../../../config-db/generated/types.ts";
import { timeLimit } from "../../../config-db/time-limit.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Bridge } from "./bridge.ts";
import type { DiskCache } from "./disk-cache.ts";
import { followEvents } from "./event-stream.ts";
import type { Logger } from "./logger.ts";
import type { AmqpAddress } from "./membership.ts";
import { integer } from "./options.ts";
import { reasonOf } from "./thrown.ts";
import type { Validate } from "./validation.ts";

/** What settings were before, and which they are. */
export interface ConfigChange<S> {
  /** The content hash of the settings. */
  etag: string;
  /** The settings before; the same ones where there were none. */
  previous: S;
  /** Aborts at the handler's time-out, or when the component has closed: what the handler does after that is in vain. */
  signal: AbortSignal;
}

/**
 * Takes settings over. What it throws rejects them: the component stays with the previous ones, handlers that had
 * already taken the new ones get the previous ones again, and the reason is reported. So does taking too long.
 *
 * It may subscribe further handlers: they get the settings that are current, and the new ones after this one.
 */
export type ConfigHandler<S> = (settings: S, change: ConfigChange<S>) => void | Promise<void>;

export interface ConfigHandlerOptions {
  /** A handler that takes longer has failed; it should end at `signal`. 1–86,400,000, default 30,000. */
  timeoutMs?: number;
}

interface Subscription<S> {
  handler: ConfigHandler<S>;
  timeoutMs: number;
}

export interface ConfigurationOptions<S extends object> {
  bridge: Bridge;
  id: string;
  validate: Validate<S>;
  cache: DiskCache;
  logger: Logger;
}

/** A lost signal costs at most this, less up to a quarter at random. */
const pollEveryMs = 60_000;
/** A coordinator is behind the one that sent a signal by milliseconds. Less than what a request may take. */
const announcedWaitMs = 5_000;
/** The time stands for a reading that was confirmed; writing it more often would only wear the disk. */
const keepEveryMs = 60_000;
const reportRetry = { firstMs: 200, maxMs: 5_000 };
const reasonLengthMax = 2_000;

export class Configuration<S extends object = Settings> {
  readonly #options: ConfigurationOptions<S>;
  readonly #subscriptions = new Set<Subscription<S>>();
  /** Handlers at work. */
  readonly #calls = new Set<Promise<void>>();
  readonly #ending = new AbortController();
  /** Handlers are waited for no longer. */
  readonly #closed = new AbortController();
  #settings: S | undefined;
  #raw: Settings | undefined;
  #etag = "";
  /** Why a handler that came later would not take `current`. */
  #refusal: string | undefined;
  /** The newest that was seen, be it applied or rejected. */
  #seenEtag: string | undefined;
  /** What a signal told of and was not seen yet: the coordinator that is asked may hear of it later than we did. */
  #announced: string | undefined;
  /** On this process's monotonic clock; in the past of it for settings from disk. */
  #confirmedAtMs = 0;
  #keptAtMs = Number.NEGATIVE_INFINITY;
  #amqp: AmqpAddress | undefined;
  /** Counts what was taken, so that a slow answer is never applied over a newer one. */
  #taken = 0;
  #work: Promise<unknown> = Promise.resolve();
  #reading: Promise<void> | undefined;
  #readAgain = false;
  #report: { etag: string; status: "applied" | "rejected"; reason?: string } | undefined;
  #reporting = false;
  #poll: NodeJS.Timeout | undefined;
  #stream: AbortController | undefined;

  constructor(options: ConfigurationOptions<S>) {
    this.#options = options;
    // Handlers that are added at once each listen to it: that is no leak.
    setMaxListeners(0, this.#closed.signal);
  }

  /** The settings that the component works by: the newest that it accepted. */
  get current(): S {
    if (this.#settings === undefined) throw new MusterError("unreachable", "no configuration has been read yet");
    return this.#settings;
  }

  /** The content hash of `current`, the same at every site. */
  get etag(): string {
    return this.#etag;
  }

  /** How long ago a coordinator last confirmed that `current` is the newest: the age of what is known when offline. */
  get ageMs(): number {
    return Math.max(0, performance.now() - this.#confirmedAtMs);
  }

  get isKnown(): boolean {
    return this.#settings !== undefined;
  }

  /**
   * Calls `handler` with the current settings, then with every change, one at a time and never with an older one after
   * a newer. Resolves when the handler has taken the current settings.
   *
   * A change is reported as applied when all handlers have taken it; with none, when it has been checked. A handler that
   * throws at the current settings has them reported as rejected, until others come: they stay `current`, for whoever took
   * them works by them.
   * @throws what the handler throws at the current settings, or that it took too long; it is not subscribed then.
   * @throws MusterError `invalid-request` for a bad option.
   */
  async onChange(handler: ConfigHandler<S>, options: ConfigHandlerOptions = {}): Promise<() => void> {
    const timeoutMs = integer("timeoutMs", options.timeoutMs ?? 30_000, 1, 86_400_000);
    const subscription = { handler, timeoutMs };
    let previous = this.current;
    let taken: string | undefined;
    // Not in turn with changes, so that a handler can subscribe others: what changed meanwhile is given now.
    while (taken !== this.#etag) {
      const settings = this.current;
      const etag = this.#etag;
      try {
        await this.#give(subscription, settings, { etag, previous });
      } catch (error) {
        this.#refused(etag, error);
        throw error;
      }
      previous = settings;
      taken = etag;
    }
    this.#subscriptions.add(subscription);
    return () => this.#subscriptions.delete(subscription);
  }

  /** Starts from what was kept on disk. @returns the broker's address as last known, with `true` for settings found. */
  async restore(): Promise<{ found: boolean; amqp: AmqpAddress | undefined }> {
    const kept = await this.#options.cache.read(this.#options.id);
    if (kept === undefined) return { found: false, amqp: undefined };
    this.#amqp = kept.amqp;
    try {
      this.#settings = await this.#options.validate(kept.settings);
      this.#raw = kept.settings;
      this.#etag = kept.etag;
      // Both are readings of one machine's wall clock; a clock set back in between must not give a negative age.
      const ageMs = Math.max(0, Date.now() - Date.parse(kept.confirmedAt)) || 0;
      this.#confirmedAtMs = performance.now() - ageMs;
      return { found: true, amqp: kept.amqp };
    } catch (error) {
      this.#options.logger.warn({ error }, "the configuration kept on disk does not fit this component any more");
      return { found: false, amqp: kept.amqp };
    }
  }

  /** Remembered with the settings, for a start when only the broker is up. */
  rememberBroker(amqp: AmqpAddress | undefined): void {
    if (JSON.stringify(this.#amqp) === JSON.stringify(amqp)) return;
    this.#amqp = amqp;
    void this.#keep(true);
  }

  /**
   * Reads now what a signal said has changed, and resolves when handlers have taken it: awaited inside one it waits for
   * itself. Calls while a reading is under way make one more, not many.
   */
  refresh(): Promise<void> {
    if (this.#reading !== undefined) {
      this.#readAgain = true;
      return this.#reading;
    }
    this.#reading = this.#readUntilQuiet().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  /** A signal names the revision it is about: what is already known needs no reading. */
  signalled(revision: string): void {
    if (revision === this.#seenEtag) {
      this.#announced = undefined;
      return;
    }
    this.#announced = revision;
    void this.refresh().catch(() => undefined);
  }

  /** Keeps the configuration current: by signals where messages arrive, by a stream where they do not, by polls always. */
  follow(by: "signals" | "stream"): void {
    if (this.#ending.signal.aborted) return;
    this.#schedulePoll();
    if (by === "signals") {
      this.#stream?.abort();
      this.#stream = undefined;
    } else if (this.#stream === undefined) {
      this.#stream = new AbortController();
      void this.#followStream(this.#stream.signal);
    }
  }

  /** Says again what was applied or rejected: a coordinator that lost its memory of it learns it anew. */
  reportAgain(): void {
    if (this.#report !== undefined) void this.#sendReport();
  }

  /** Takes no more changes, and lets handlers end within `drainMs`; what they have not taken then never was. */
  async close(drainMs: number): Promise<void> {
    this.#ending.abort();
    this.#stream?.abort();
    clearTimeout(this.#poll);
    const drained = new AbortController();
    void Promise.allSettled([this.#work, ...this.#calls]).then(() => drained.abort());
    await pause(drainMs, drained.signal);
    this.#closed.abort(new MusterError("unreachable", "the component closed"));
    if (this.isKnown) await this.#keep(true);
  }

  async #readUntilQuiet(): Promise<void> {
    do {
      this.#readAgain = false;
      await this.#read();
    } while ((this.#readAgain || this.#announced !== undefined) && !this.#ending.signal.aborted);
  }

  async #read(): Promise<void> {
    const { bridge, id } = this.#options;
    const takenBefore = this.#taken;
    const announced = this.#announced;
    const headers: Record<string, string> =
      this.#seenEtag === undefined ? {} : { "if-none-match": `"${this.#seenEtag}"` };
    const answer = await bridge.ask<Settings>({
      path: `/v1/components/${id}/config`,
      query: announced === undefined ? {} : { waitMs: announcedWaitMs },
      headers,
      signal: this.#ending.signal,
    });
    // Nothing came in all that time: what was told of has been taken back.
    const isOver = answer.status === 304 && this.#announced === announced;
    if (isOver || answer.etag === this.#announced) this.#announced = undefined;
    if (takenBefore !== this.#taken) {
      this.#readAgain = true;
    } else if (answer.status === 304) {
      this.#confirm();
    } else {
      await this.#take(answer.etag ?? "", answer.body);
    }
  }

  async #followStream(signal: AbortSignal): Promise<void> {
    const { bridge, id, logger } = this.#options;
    const path = `/v1/components/${id}/config`;
    const onEvent = ({ event, data }: { event: string; data: unknown }) => {
      if (event === "fault") logger.warn({ problem: data }, "there are no settings to be had; those at hand stay");
      if (event !== "config") return;
      const { etag, settings } = data as { etag: string; settings: Settings };
      void this.#take(etag, settings).catch((error: unknown) => logger.warn({ error }, "settings were rejected"));
    };
    const lastEventId = () => this.#seenEtag;
    await followEvents({ bridge, path, signal, lastEventId, onEvent }).catch((error: unknown) =>
      logger.warn({ error }, "configuration cannot be streamed; it is polled"),
    );
  }

  #schedulePoll(): void {
    clearTimeout(this.#poll);
    const jittered = pollEveryMs * (1 - Math.random() / 4);
    this.#poll = setTimeout(() => {
      void this.refresh()
        .catch((error: unknown) => this.#options.logger.debug({ error }, "configuration cannot be read"))
        .then(() => {
          if (!this.#ending.signal.aborted) this.#schedulePoll();
        });
    }, jittered).unref();
  }

  async #take(etag: string, raw: Settings): Promise<void> {
    this.#taken += 1;
    await this.#inTurn(async () => {
      if (this.#ending.signal.aborted) return;
      if (etag === this.#seenEtag) return this.#confirm();
      const known = this.#seenEtag;
      this.#seenEtag = etag;
      if (etag === this.#etag && this.isKnown) {
        // What stood on disk, or the return of the previous after a rejection.
        this.#confirm();
        return this.#tellCurrent();
      }
      try {
        await this.#apply(etag, await this.#options.validate(raw), raw);
        this.#tellCurrent();
      } catch (error) {
        if (this.#closed.signal.aborted) return;
        const reason = reasonOf(error, reasonLengthMax);
        this.#options.logger.warn({ etag, reason }, "the new configuration is rejected");
        this.#tell({ etag, status: "rejected", reason });
        // At the start there is nothing to stay with, so the caller has to know.
        if (known === undefined && !this.isKnown) {
          throw new MusterError("refused", `the configuration was rejected: ${reason}`, { cause: error });
        }
      }
    });
  }

  async #apply(etag: string, settings: S, raw: Settings): Promise<void> {
    const previous = this.#settings ?? settings;
    const done: Subscription<S>[] = [];
    try {
      // Those that are added meanwhile come last.
      for (const subscription of this.#subscriptions) {
        await this.#give(subscription, settings, { etag, previous });
        done.push(subscription);
      }
      this.#closed.signal.throwIfAborted();
    } catch (error) {
      for (const subscription of this.#closed.signal.aborted ? [] : done) {
        try {
          await this.#give(subscription, previous, { etag: this.#etag, previous: settings });
        } catch (failure) {
          const told = "a handler could not go back to the previous configuration";
          this.#options.logger.error({ error: failure }, told);
        }
      }
      throw error;
    }
    this.#settings = settings;
    this.#raw = raw;
    this.#etag = etag;
    this.#refusal = undefined;
    this.#confirmedAtMs = performance.now();
    // Not awaited: the report need not wait for the disk, which matters only to a later process.
    void this.#keep(true);
  }

  /** @throws what the handler throws; that it took too long, or that the component has closed. */
  async #give(
    { handler, timeoutMs }: Subscription<S>,
    settings: S,
    change: Omit<ConfigChange<S>, "signal">,
  ): Promise<void> {
    const closed = this.#closed.signal;
    closed.throwIfAborted();
    const limit = timeLimit(timeoutMs, `the handler took longer than ${timeoutMs} ms`, closed);
    const { signal } = limit;
    const given = new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      new Promise<void>((take) => take(handler(settings, { ...change, signal }))).then(resolve, reject);
    });
    this.#calls.add(given);
    try {
      await given;
    } finally {
      limit.release();
      this.#calls.delete(given);
    }
  }

  #refused(etag: string, error: unknown): void {
    if (this.#closed.signal.aborted || etag !== this.#etag) return;
    const reason = reasonOf(error, reasonLengthMax);
    this.#options.logger.warn({ etag, reason }, "a new handler does not take the current configuration");
    this.#refusal = reason;
    // Else there is a newer one, and a report on it.
    if (etag === this.#seenEtag) this.#tellCurrent();
  }

  #confirm(): void {
    // A rejected one that is still the newest does not make the older one current.
    if (this.#seenEtag !== this.#etag) return;
    this.#confirmedAtMs = performance.now();
    void this.#keep(false);
  }

  async #keep(now: boolean): Promise<void> {
    if (this.#raw === undefined || (!now && performance.now() - this.#keptAtMs < keepEveryMs)) return;
    this.#keptAtMs = performance.now();
    const { id, cache } = this.#options;
    const confirmedAt = new Date(Date.now() - this.ageMs).toISOString();
    await cache.write({ id, etag: this.#etag, settings: this.#raw, confirmedAt, amqp: this.#amqp });
  }

  #tellCurrent(): void {
    const etag = this.#etag;
    if (this.#refusal === undefined) this.#tell({ etag, status: "applied" });
    else this.#tell({ etag, status: "rejected", reason: this.#refusal });
  }

  #tell(report: { etag: string; status: "applied" | "rejected"; reason?: string }): void {
    this.#report = report;
    void this.#sendReport();
  }

  /** One at a time, the newest only, until a coordinator has it or refuses it. */
  async #sendReport(): Promise<void> {
    if (this.#reporting) return;
    this.#reporting = true;
    const { bridge, id, logger } = this.#options;
    const { signal } = this.#ending;
    let sent: unknown;
    for (let attempt = 0; sent !== this.#report && !signal.aborted; attempt += 1) {
      const report = this.#report;
      try {
        await bridge.ask({ method: "PUT", path: `/v1/components/${id}/config/status`, body: report, signal });
        sent = report;
      } catch (error) {
        if (isMusterError(error) && error.status < 500) {
          logger.debug({ error }, "the report on the configuration was refused; it is sent again after registering");
          break;
        }
        await pause(backoffMs(attempt, reportRetry), signal);
      }
    }
    this.#reporting = false;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#work.then(work);
    this.#work = result.catch(() => undefined);
    return result;
  }
}
