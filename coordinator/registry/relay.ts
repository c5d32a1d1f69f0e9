/**
 * Renewals that came to a coordinator that does not lead, on their way to the one that does: by message, and over HTTP
 * where the broker is away or where somebody has to know what the leader says.
 */
import type { Logger } from "pino";
import { type ErrorCode, MusterError } from "../../config-db/errors.ts";
import type { Problem, RenewalMessage } from "../../config-db/generated/types.ts";

export interface RelayOptions {
  /** By message; absent without a broker. @throws MusterError `broker-unavailable` */
  publish?(renewal: RenewalMessage): Promise<unknown>;
  /** Where the leader answers; undefined while that is not known, or is here. */
  leaderUrl(): string | undefined;
  /** The site's coordinators have the same one. */
  operatorToken?: string;
  logger: Logger;
}

/** On a request that was passed on once: the coordinator that it comes to passes it on no more. */
export const relayedHeader = "muster-relayed";

const askTimeoutMs = 2_000;
/** Polls of one component within this are one renewal: of a component that polls without a pause there are ten a second. */
const windowMs = 100;

export class Relay {
  readonly #options: RelayOptions;
  /** Of components that were told of within the last window: what came meanwhile and is still to be told. */
  readonly #windows = new Map<string, RenewalMessage | undefined>();
  #closed = false;

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  close(): void {
    this.#closed = true;
  }

  /**
   * Resolves when the leader has the renewal, or the broker has it for the leader.
   * @throws MusterError `not-leading` when neither can be reached; what the leader said when it was asked.
   */
  async pass(renewal: RenewalMessage): Promise<void> {
    const { publish, logger } = this.#options;
    try {
      if (publish !== undefined) {
        await publish(renewal);
        return;
      }
    } catch (error) {
      logger.debug({ component: renewal.id, error }, "the broker takes no renewal; asking the leader");
    }
    await this.ask(renewal);
  }

  /**
   * Renews at the leader, over HTTP.
   * @throws MusterError `not-registered`, `superseded` as the leader says; `not-leading` when it does not answer.
   */
  async ask({ id, ...renewal }: RenewalMessage): Promise<void> {
    const { operatorToken } = this.#options;
    const leaderUrl = this.#options.leaderUrl();
    if (leaderUrl === undefined) throw cannotReach("where the one that does is not known");
    const path = `/v1/components/${encodeURIComponent(id)}/lease`;
    try {
      const response = await fetch(leaderUrl.replace(/\/$/, "") + path, {
        method: "PUT",
        headers: {
          "content-type": "application/json",
          [relayedHeader]: "1",
          ...(operatorToken === undefined ? {} : { authorization: `Bearer ${operatorToken}` }),
        },
        body: JSON.stringify(renewal),
        signal: AbortSignal.timeout(askTimeoutMs),
      });
      const text = await response.text();
      if (response.ok) return;
      const { code, detail } = JSON.parse(text) as Problem;
      if (passedBack.has(code)) throw new MusterError(code as ErrorCode, detail ?? text);
      throw new Error(`status ${response.status}: ${detail ?? text}`);
    } catch (error) {
      if (error instanceof MusterError) throw error;
      throw cannotReach(
        `the one that does, at ${leaderUrl}, did not take the renewal (${(error as Error).message})`,
        error,
      );
    }
  }

  /** Passes on that a component has polled. Nobody waits for it. */
  touch(renewal: RenewalMessage): void {
    const { id } = renewal;
    if (this.#windows.has(id)) {
      this.#windows.set(id, renewal);
      return;
    }
    this.#windows.set(id, undefined);
    this.pass(renewal).catch((error: unknown) =>
      this.#options.logger.debug({ component: id, error }, "a poll could not be passed on as a renewal"),
    );
    const timer = setTimeout(() => {
      const missed = this.#windows.get(id);
      this.#windows.delete(id);
      if (missed !== undefined && !this.#closed) this.touch(missed);
    }, windowMs);
    timer.unref();
  }
}

const passedBack = new Set<string>(["not-registered", "superseded"] satisfies ErrorCode[]);

function cannotReach(why: string, cause?: unknown): MusterError {
  return new MusterError(
    "not-leading",
    `this coordinator does not lead its site, and ${why}; try another coordinator`,
    {
      retryAfterMs: 1_000,
      cause,
    },
  );
}
