/**
 * Takes dead letters from the broker into the store. Each is acked when its record is written and its sender, if it asked,
 * was told; so none is lost, whoever dies. One coordinator of a site at a time does it.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Channel, ConsumeMessage } from "amqplib";
import { LRUCache } from "lru-cache";
import type { Logger } from "pino";
import { isMusterError, type MusterError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import { databases, documentId, queues } from "../../config-db/names.ts";
import type { Database, Store } from "../../config-db/store.ts";
import { batchLength, isRefusal, writeInHalves } from "../batches.ts";
import type { Broker } from "./broker.ts";
import { tellOutcome } from "./consumer.ts";
import { type DeadState, judgeDead } from "./dead-letter.ts";
import { constantParts, type DeadLetterDocument, documentOf, withoutMessage } from "./dead-letter-document.ts";
import type { Envelope } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";

export interface DeadLetterIntakeOptions {
  store: Store;
  broker: Broker;
  logger: Logger;
  wallClock: () => Date;
  /** Kept in the store; more wait in the broker's `muster.dead`. */
  max: number;
  /** Resolves when the queue of dead letters stands. */
  ready: () => Promise<void>;
}

interface Arrived {
  channel: Channel;
  message: ConsumeMessage;
  /** No two have the same: letters are kept in the order of their arrival. */
  atMs: number;
}

const prefetch = 200;
const recentMax = 10_000;
/** In base64 and with their envelopes well under the 8 MiB that the embedded store takes. */
const batchLimits = { countMax: 50, bytesMax: 4 * 1024 * 1024 };
const storeRetryMs = 1_000;
/** Looks again so often whether there is room. */
const fullRetryMs = 5_000;

export class DeadLetterIntake {
  readonly #options: DeadLetterIntakeOptions;
  readonly #database: Database<DeadLetterDocument>;
  readonly #abort = new AbortController();
  readonly #arrived: Arrived[] = [];
  #opened: ReturnType<Broker["channel"]> | undefined;
  #taking: Promise<void> | undefined;
  #count: number | undefined;
  #lastArrivalMs = 0;
  /** Hashes of letters that were taken last. */
  readonly #recent = new LRUCache<string, true>({ max: recentMax });
  /** Messages that nobody will miss and that were dropped here, since the start. */
  dropped = 0;

  constructor(options: DeadLetterIntakeOptions) {
    this.#options = options;
    this.#database = options.store.database<DeadLetterDocument>(databases.commands);
  }

  start(): void {
    this.#opened = this.#options.broker.channel({
      name: "dead letters",
      setup: async (channel) => {
        await this.#options.ready();
        // Another coordinator may have taken letters meanwhile.
        this.#count = undefined;
        await consume(channel, queues.dead, { prefetch }, (message) => {
          this.#lastArrivalMs = Math.max(this.#options.wallClock().getTime(), this.#lastArrivalMs + 1);
          this.#arrived.push({ channel, message, atMs: this.#lastArrivalMs });
          this.#taking ??= this.#takeAll();
        });
      },
      onLost: () => {
        this.#arrived.length = 0;
      },
    });
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#opened?.close();
    await this.#taking;
  }

  /** How many are kept; undefined until they were counted. */
  get count(): number | undefined {
    return this.#count;
  }

  /** A kept letter was redriven or discarded: there is room for another. */
  removed(): void {
    if (this.#count !== undefined) this.#count -= 1;
  }

  async #takeAll(): Promise<void> {
    const { signal } = this.#abort;
    const { logger } = this.#options;
    while (this.#arrived.length > 0 && !signal.aborted) {
      const batch = this.#arrived.splice(0, batchLength(this.#arrived, sizeBytesOf, batchLimits));
      for (let failures = 0; !signal.aborted; failures += 1) {
        try {
          await this.#awaitRoom();
          await this.#take(batch);
          break;
        } catch (error) {
          if (failures === 0 && !signal.aborted)
            logger.warn({ error: String(error) }, "dead letters wait: the store or the broker does not take them");
          await delay(storeRetryMs, undefined, { signal }).catch(() => undefined);
        }
      }
    }
    this.#taking = undefined;
  }

  async #awaitRoom(): Promise<void> {
    const { max, logger } = this.#options;
    this.#count ??= (await this.#database.ids(documentId.deadLetter(""))).length;
    for (let told = false; this.#count >= max; told = true) {
      if (!told) logger.error({ count: this.#count }, "the limit of dead letters is reached: redrive or discard some");
      await delay(fullRetryMs, undefined, { signal: this.#abort.signal });
    }
  }

  async #take(batch: Arrived[]): Promise<void> {
    const nowMs = this.#options.wallClock().getTime();
    const judged = batch.map((arrived) => ({ ...arrived, verdict: judgeDead(arrived.message, nowMs) }));
    const kept = judged.filter(({ verdict }) => verdict.keep);
    const docs: DeadLetterDocument[] = [];
    for (const { message, verdict, atMs } of kept) {
      const doc = documentOf(message, verdict, atMs);
      const { hash } = constantParts(doc.id);
      if (docs.some(({ id }) => id.endsWith(hash))) continue;
      // Published twice, or its ack got lost.
      const isAgain = message.fields.redelivered || this.#recent.has(hash);
      this.#recent.set(hash, true);
      if (!isAgain || !(await this.#isKept(doc))) docs.push(doc);
    }
    const write = (part: DeadLetterDocument[]) => this.#write(part);
    await writeInHalves(docs, write, (doc) => this.#writeAlone(doc));
    this.dropped += judged.length - kept.length;
    await Promise.all(
      judged.map(async ({ verdict, message, channel }) => {
        const { envelope, to, state, reason } = verdict;
        if (envelope !== undefined && to !== undefined) await this.#tell(envelope, { to, state, reason });
        try {
          channel.ack(message);
        } catch {
          // The channel is gone: the letter comes again, and its record says that it was here.
        }
      }),
    );
  }

  async #isKept({ id }: DeadLetterDocument): Promise<boolean> {
    const { second, hash } = constantParts(id);
    const ids = await this.#database.ids(documentId.deadLetter(second));
    return ids.some((kept) => kept.endsWith(hash));
  }

  async #write(docs: DeadLetterDocument[]): Promise<void> {
    for (const row of await this.#database.bulk(docs)) {
      const doc = docs.find(({ _id }) => _id === row.id);
      if ("rev" in row) this.#added();
      // A conflict: an earlier try wrote it.
      else if (row.error !== "conflict" && doc !== undefined) await this.#writeAlone(doc);
    }
  }

  async #writeAlone(doc: DeadLetterDocument): Promise<void> {
    const refusal = await this.#put(doc);
    if (refusal === undefined) return;
    this.#options.logger.error({ id: doc.id, error: String(refusal) }, "a dead letter is kept without its message");
    const again = await this.#put(withoutMessage(doc, refusal.message));
    if (again !== undefined) throw again;
  }

  /** @returns why the store will not take the document however often it is tried. */
  async #put(doc: DeadLetterDocument): Promise<MusterError | undefined> {
    try {
      await this.#database.put(doc);
      this.#added();
    } catch (error) {
      if (isRefusal(error)) return error;
      if (!isMusterError(error, "conflict")) throw error;
    }
    return undefined;
  }

  #added(): void {
    if (this.#count !== undefined) this.#count += 1;
  }

  /** Tells a sender that asked what became of its command. */
  async #tell(envelope: Envelope, told: { to: string; state: DeadState; reason: string }): Promise<void> {
    if (envelope.replyTo === undefined || (envelope.kind !== "command" && envelope.kind !== "broadcast")) return;
    const now = this.#options.wallClock();
    const { to: component, state, reason } = told;
    const outcome = {
      id: envelope.messageId,
      component,
      state,
      attempt: envelope.attempt,
      at: now.toISOString(),
      reason,
      // Its record may have been sent again by now.
      redriven: envelope.redriven ?? 0,
    };
    await tellOutcome(this.#options.broker, envelope, outcome, { persistent: true, nowMs: now.getTime() });
  }
}

function sizeBytesOf({ message }: Arrived): number {
  return Math.min(message.content.length, limits.bodyBytes);
}
