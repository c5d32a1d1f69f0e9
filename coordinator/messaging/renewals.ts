/** Renewals of leases that come by AMQP, on their way to the coordinator that judges them. */
import type { RenewalMessage } from "../../config-db/generated/types.ts";
import { exchanges, queues } from "../../config-db/names.ts";
import { check } from "../../config-db/validate.ts";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";

const prefetch = 2_000;
/** A renewal is a few hundred bytes; what is larger is none. */
const renewalBytesMax = 8_192;

export class Renewals {
  readonly #broker: Broker;
  readonly #ready: () => Promise<void>;
  readonly #listeners = new Set<(renewal: RenewalMessage) => void>();
  #opened: ReturnType<Broker["channel"]> | undefined;
  /** Messages that were no renewals, since the start. */
  malformed = 0;

  /** @param ready resolves when the queue of renewals stands. */
  constructor(broker: Broker, ready: () => Promise<void>) {
    this.#broker = broker;
    this.#ready = ready;
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    await this.#opened?.close();
    this.#opened = undefined;
  }

  /** Consumes while somebody listens: only the leader of a site should. @returns what ends it. */
  listen(listener: (renewal: RenewalMessage) => void): () => Promise<void> {
    this.#listeners.add(listener);
    this.#opened ??= this.#broker.channel({
      name: "renewals",
      setup: async (channel) => {
        await this.#ready();
        await consume(channel, queues.renewals, { prefetch, noAck: true }, (message) => this.#give(message.content));
      },
    });
    return async () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      const opened = this.#opened;
      this.#opened = undefined;
      await opened?.close();
    };
  }

  /** Passes a renewal that came by HTTP to a coordinator that does not lead on to the one that does. */
  async publish(renewal: RenewalMessage): Promise<void> {
    const content = Buffer.from(JSON.stringify(renewal));
    const options = { persistent: false, contentType: "application/json" };
    await this.#broker.publish({ exchange: exchanges.renewals, key: "", content, options });
  }

  #give(content: Buffer): void {
    const renewal = content.length <= renewalBytesMax ? parseJson(content) : undefined;
    if (renewal === undefined || check("renewal-message", renewal).length > 0) {
      this.malformed += 1;
      return;
    }
    for (const listener of this.#listeners) listener(renewal as RenewalMessage);
  }
}

function parseJson(content: Buffer): unknown {
  try {
    return JSON.parse(content.toString("utf8"));
  } catch {
    return undefined;
  }
}
