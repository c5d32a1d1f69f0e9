/** The component's place in the registry: registered, renewed, registered again whenever it is lost. */
import { randomUUID } from "node:crypto";
import { isMusterError, MusterError } from "../../../config-db/errors.ts";
import type { Health } from "../../../config-db/generated/types.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Bridge } from "./bridge.ts";
import type { Logger } from "./logger.ts";
import { reasonOf } from "./thrown.ts";

/** How the broker is reached, as registration answers. */
export interface AmqpAddress {
  url: string;
  queues: { commands: string; broadcasts: string; replies: string };
}

/** What registration answers. */
export interface Registered {
  id: string;
  type: string;
  site: string;
  incarnation: number;
  lease: { ttlMs: number; expiresInMs: number; renewEveryMs: number };
  config: { url: string; etag: string; document?: string };
  messaging: { inbox: string; amqp?: AmqpAddress };
}

/** `superseded`: a newer process took the id; this one must end. */
export type MemberState = "online" | "offline" | "superseded" | "closed";

export interface MembershipOptions {
  bridge: Bridge;
  id: string;
  registration: Record<string, unknown>;
  health: (() => Health) | undefined;
  /** Renews by a message; false where no broker takes it now. */
  renewByMessage(renewal: { id: string; incarnation: number; health?: Health }): boolean;
  onRegistered(registered: Registered): void;
  onState(state: MemberState): void;
  logger: Logger;
}

const retry = { firstMs: 250, maxMs: 10_000 };
const statuses: readonly Health["status"][] = ["passing", "warning", "failing"];

export class Membership {
  readonly #options: MembershipOptions;
  /** Tells this process from an earlier one under the same id. */
  readonly #instance = randomUUID();
  readonly #ending = new AbortController();
  #registered: Registered | undefined;
  #state: MemberState = "offline";
  #loop: Promise<void> = Promise.resolve();
  /** When a coordinator last answered for the lease. Messages that renew are answered only when they are void. */
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #wake: (() => void) | undefined;
  #isToRegister = false;

  constructor(options: MembershipOptions) {
    this.#options = options;
  }

  get state(): MemberState {
    return this.#state;
  }

  get registered(): Registered | undefined {
    return this.#registered;
  }

  /**
   * Registers once.
   * @throws MusterError as the bridge answered. Only what will not change by waiting (a refusal) should stop the caller.
   */
  async register(): Promise<Registered> {
    const { bridge, id, registration } = this.#options;
    const { body } = await bridge.ask<Registered>({
      method: "PUT",
      path: `/v1/components/${id}`,
      body: { ...registration, instance: this.#instance },
      signal: this.#ending.signal,
    });
    this.#registered = body;
    this.#isToRegister = false;
    this.#answeredAtMs = performance.now();
    this.#setState("online");
    this.#options.onRegistered(body);
    return body;
  }

  /** Renews from now on, and registers first where that has not been done, until `close`. */
  start(): void {
    this.#loop = this.#run();
  }

  /** Asks a coordinator for the lease now: after a link has come back, or after this process stood still. */
  check(): void {
    this.#answeredAtMs = Number.NEGATIVE_INFINITY;
    this.#wake?.();
  }

  /**
   * Registers again as soon as the lease was renewed: what registration answers, the broker's address, may be another now.
   * Not before, for that would take the id from a newer process.
   */
  registerAgain(): void {
    this.#isToRegister = true;
    this.check();
  }

  /** Ends renewing; tells the registry where `deregister` is set. Never rejects: the lease would run out anyway. */
  async close(deregister: boolean): Promise<void> {
    if (this.#state === "closed") return;
    const superseded = this.#state === "superseded";
    this.#ending.abort();
    await this.#loop;
    this.#setState("closed");
    if (!deregister || superseded || this.#registered === undefined) return;
    const { bridge, id, logger } = this.#options;
    await bridge
      .ask({
        method: "DELETE",
        path: `/v1/components/${id}`,
        // A newer process under this id stays.
        query: { incarnation: this.#registered.incarnation },
        timeoutMs: 3_000,
      })
      .catch((error: unknown) => logger.warn({ error }, "not deregistered; the lease will expire"));
  }

  async #run(): Promise<void> {
    const { signal } = this.#ending;
    let attempt = 0;
    while (!signal.aborted && this.#state !== "superseded") {
      try {
        const { lease } = this.#registered === undefined ? await this.register() : await this.#renew(this.#registered);
        attempt = 0;
        await this.#sleep(lease.renewEveryMs);
      } catch (error) {
        if (signal.aborted) return;
        this.#judge(error);
        await this.#sleep(backoffMs(attempt, { ...retry, maxMs: this.#retryMaxMs() }));
        attempt += 1;
      }
    }
  }

  /** A lease that can still be saved is worth more tries than one that is lost anyway. */
  #retryMaxMs(): number {
    return Math.min(retry.maxMs, this.#registered?.lease.renewEveryMs ?? retry.maxMs);
  }

  /**
   * By message where the broker can be reached, and within each TTL by a request: a broker that froze loses all messages,
   * and what the leader answers to those that are void, before it is noticed.
   */
  async #renew(registered: Registered): Promise<Registered> {
    const { id, incarnation, lease } = registered;
    const health = healthOf(this.#options.health);
    const renewal = { incarnation, ...(health !== undefined && { health }) };
    const sent = this.#options.renewByMessage({ id, ...renewal });
    // With the next one, and half an interval for delays, the TTL would be over.
    const isLastInTtl = performance.now() - this.#answeredAtMs + 1.5 * lease.renewEveryMs >= lease.ttlMs;
    if (sent && !isLastInTtl) return registered;
    try {
      const path = `/v1/components/${id}/lease`;
      // Half of what is left at the worst, so that there is time to ask once more.
      const timeoutMs = Math.max(500, Math.min(5_000, lease.renewEveryMs));
      await this.#options.bridge.ask({ method: "PUT", path, body: renewal, timeoutMs, signal: this.#ending.signal });
      this.#answeredAtMs = performance.now();
      this.#setState("online");
    } catch (error) {
      if (isMusterError(error) && error.status === 404) {
        this.#options.logger.info({ id }, "the lease was lost; registering again");
        this.#registered = undefined;
        return await this.register();
      }
      throw error;
    }
    if (!this.#isToRegister) return registered;
    // The lease was renewed: that the address could not be asked for says nothing of it. Asked again with the next renewal.
    return await this.register().catch(() => registered);
  }

  #judge(error: unknown): void {
    const { id, logger } = this.#options;
    if (isMusterError(error, "superseded")) {
      logger.error({ id }, "a newer process has this id; this one stops");
      this.#setState("superseded");
      return;
    }
    const expected = error instanceof MusterError && error.status >= 500;
    if (expected) logger.debug({ error }, "no coordinator takes the renewal");
    else logger.warn({ error }, "the renewal failed");
    this.#setState("offline");
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#state === "superseded") return;
    const early = new AbortController();
    this.#wake = () => early.abort();
    await pause(ms, this.#ending.signal, early.signal);
    this.#wake = undefined;
  }

  #setState(state: MemberState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#options.onState(state);
  }
}

/** A check that throws or says what is no health must not cost the lease: it says that something is wrong. */
function healthOf(check: (() => Health) | undefined): Health | undefined {
  if (check === undefined) return undefined;
  try {
    const { status, reason } = check();
    if (!statuses.includes(status)) throw new Error(`health() must give a status of ${statuses.join(", ")}`);
    return reason === undefined || reason === "" ? { status } : { status, reason: reasonOf(reason) };
  } catch (error) {
    return { status: "failing", reason: reasonOf(error) };
  }
}
