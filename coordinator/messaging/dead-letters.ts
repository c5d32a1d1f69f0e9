/**
 * Dead letters: taken from the broker into the store, where they can be listed, sent again and discarded for as long as
 * it takes. Each is acked when its record is written, so none is lost; a sender that asked is told. When there are more
 * than the limit, the rest wait in the broker.
 */
import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Channel, ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import type { DeadLetterMatch } from "../../config-db/generated/types.ts";
import { databases, documentId, queues } from "../../config-db/names.ts";
import type { Database, Document, Store } from "../../config-db/store.ts";
import type { Broker } from "./broker.ts";
import { tellOutcome } from "./consumer.ts";
import { type DeadState, judgeDead, matches, redriveRoute, type Verdict } from "./dead-letter.ts";
import type { Envelope, Letter } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import { recordPage, recordPages } from "./record-pages.ts";
import type { Sender } from "./send.ts";
import type { Tracking } from "./tracking.ts";

export interface DeadLettersOptions {
  store: Store;
  broker: Broker;
  sender: Sender;
  tracking: Tracking;
  logger: Logger;
  wallClock: () => Date;
  /** Kept in the store; more wait in the broker's `muster.dead`. */
  max: number;
  /** Resolves when the queue of dead letters stands. */
  ready: () => Promise<void>;
}

/** A dead letter as it is listed. */
export interface DeadLetter {
  id: string;
  state: DeadState;
  reason: string;
  at: string;
  to?: string;
  from?: string;
  name?: string;
  kind?: string;
  messageId?: string;
  attempt?: number;
  sentAt?: string;
  contentType?: string;
  sizeBytes: number;
}

interface DeadLetterDocument extends Document, Omit<DeadLetter, "kind"> {
  kind: "dead-letter";
  schemaVersion: 1;
  /** Absent for a malformed message. */
  envelope?: Envelope;
  _attachments?: Record<string, { content_type: string; data: string }>;
}

interface Arrived {
  channel: Channel;
  message: ConsumeMessage;
}

const prefetch = 200;
const batchMax = 50;
const batchBytesMax = 8 * 1024 * 1024;
const bodyAttachment = "body";
const storeRetryMs = 1_000;
/** Looks again so often whether there is room. */
const fullRetryMs = 5_000;
/** Records gone through for one page of a filtered list, so that a query has an end. */
const scannedMax = 5_000;
/** Letters that one redrive or discard of many goes over. */
const manyMax = 1_000;

export class DeadLetters {
  readonly #options: DeadLettersOptions;
  readonly #database: Database<DeadLetterDocument>;
  readonly #abort = new AbortController();
  readonly #arrived: Arrived[] = [];
  #opened: ReturnType<Broker["channel"]> | undefined;
  #taking: Promise<void> | undefined;
  /** Undefined until counted. */
  #count: number | undefined;
  /** Messages that nobody will miss and that were dropped here, since the start. */
  dropped = 0;

  constructor(options: DeadLettersOptions) {
    this.#options = options;
    this.#database = options.store.database<DeadLetterDocument>(databases.commands);
  }

  async start(): Promise<void> {
    this.#opened = this.#options.broker.channel({
      name: "dead letters",
      setup: async (channel) => {
        await this.#options.ready();
        await consume(channel, queues.dead, { prefetch }, (message) => {
          this.#arrived.push({ channel, message });
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

  /** How many are kept, once that was counted. */
  get count(): number | undefined {
    return this.#count;
  }

  /** The oldest first. `cursor` is the id to go on after. */
  async list(options: { match?: DeadLetterMatch; limit: number; cursor?: string }): Promise<{
    deadLetters: DeadLetter[];
    cursor?: string;
  }> {
    const { match, limit, cursor } = options;
    const deadLetters: DeadLetter[] = [];
    let after = cursor === undefined ? undefined : documentId.deadLetter(cursor);
    for (let scanned = 0; scanned < scannedMax; ) {
      const page = await recordPage<DeadLetterDocument>(
        this.#options.store,
        databases.commands,
        documentId.deadLetter(""),
        {
          limit: pageSize,
          includeDocs: true,
          ...(after === undefined ? {} : { after }),
        },
      );
      for (const { id, doc } of page) {
        after = id;
        if (doc !== undefined && matches(doc, match)) deadLetters.push(listed(doc));
        if (deadLetters.length === limit) return { deadLetters, cursor: id.slice(documentId.deadLetter("").length) };
      }
      scanned += page.length;
      if (page.length < pageSize) return { deadLetters };
    }
    return { deadLetters, ...(after === undefined ? {} : { cursor: after.slice(documentId.deadLetter("").length) }) };
  }

  /** One with its body. @throws MusterError `not-found` */
  async get(id: string): Promise<{ letter: DeadLetter; content: Buffer }> {
    const doc = await this.#read(id);
    return { letter: listed(doc), content: await this.#content(doc) };
  }

  /**
   * Sends a dead letter again, as a first attempt and without its deadline, and removes it from here when the broker has it.
   * @throws MusterError `not-found`; `refused` for what cannot be sent again; `no-such-target`, `too-many`, `broker-unavailable`.
   */
  async redrive(id: string): Promise<void> {
    await this.#redrive(await this.#read(id));
  }

  /** @throws MusterError `not-found` */
  async discard(id: string): Promise<void> {
    await this.#remove(await this.#read(id));
  }

  /** Sends all that match again, a thousand at most. Those that cannot be stay. */
  async redriveMany(match: DeadLetterMatch | undefined): Promise<{ redriven: number; refused: number; more: boolean }> {
    const { done, refused, more } = await this.#overMany(match, (doc) => this.#redrive(doc));
    return { redriven: done, refused, more };
  }

  async discardMany(match: DeadLetterMatch | undefined): Promise<{ discarded: number; more: boolean }> {
    const { done, more } = await this.#overMany(match, (doc) => this.#remove(doc));
    return { discarded: done, more };
  }

  async #overMany(
    match: DeadLetterMatch | undefined,
    work: (doc: DeadLetterDocument) => Promise<void>,
  ): Promise<{ done: number; refused: number; more: boolean }> {
    const outcome = { done: 0, refused: 0, more: false };
    const pages = recordPages<DeadLetterDocument>(this.#options.store, databases.commands, documentId.deadLetter(""), {
      limit: pageSize,
      includeDocs: true,
    });
    for await (const page of pages) {
      for (const { doc } of page) {
        if (doc === undefined || !matches(doc, match)) continue;
        if (outcome.done + outcome.refused >= manyMax) return { ...outcome, more: true };
        try {
          // One after another: their order is the order of their senders.
          await work(doc);
          outcome.done += 1;
        } catch (error) {
          if (!(error instanceof MusterError) || error.status >= 500) throw error;
          outcome.refused += 1;
        }
      }
    }
    return outcome;
  }

  async #redrive(doc: DeadLetterDocument): Promise<void> {
    const { sender, tracking } = this.#options;
    const { envelope, to } = doc;
    if (envelope === undefined || redriveRoute(envelope.kind, to) === undefined || to === undefined)
      throw new MusterError(
        "refused",
        envelope === undefined
          ? `the dead letter is malformed (${doc.reason}) and can only be discarded`
          : `a ${envelope.kind} of which ${to === undefined ? "nobody knows the target" : "the sender waits no more"} can only be discarded`,
      );
    const { deadlineAtMs: _, reason: __, error: ___, ...fresh } = envelope;
    // Counted, so that this letter, should it die again within the second, is not taken for its own echo.
    const extra = { ...fresh.extra, [redrivenHeader]: redrivenOf(fresh.extra) + 1 };
    const letter: Letter = { envelope: { ...fresh, attempt: 1, extra }, content: await this.#content(doc) };
    const target = to.startsWith("any:") ? { any: to.slice("any:".length) } : { component: to };
    const plan = sender.plan(target, "command");
    if (envelope.replyTo !== undefined) await tracking.requeued(envelope.messageId, to);
    try {
      await sender.send(plan, letter);
    } catch (error) {
      if (envelope.replyTo !== undefined) await this.#tell(envelope, { ...doc, to });
      throw error;
    }
    await this.#remove(doc);
  }

  async #read(id: string): Promise<DeadLetterDocument> {
    const doc = await this.#database.get(documentId.deadLetter(id));
    if (doc === undefined) throw new MusterError("not-found", `no dead letter "${id.slice(0, 100)}" is kept`);
    return doc;
  }

  async #content(doc: DeadLetterDocument): Promise<Buffer> {
    if (doc.sizeBytes === 0) return Buffer.alloc(0);
    const content = await this.#database.getAttachment(doc._id, bodyAttachment);
    if (content === undefined) throw new MusterError("not-found", `the dead letter "${doc.id}" was removed meanwhile`);
    return content;
  }

  async #remove({ _id, _rev }: DeadLetterDocument): Promise<void> {
    const [row] = await this.#database.bulk([{ _id, _rev, _deleted: true } as DeadLetterDocument]);
    if (row !== undefined && "rev" in row && this.#count !== undefined) this.#count -= 1;
  }

  // --- taking in -----------------------------------------------------------------------------------------------

  async #takeAll(): Promise<void> {
    const { signal } = this.#abort;
    const { logger } = this.#options;
    while (this.#arrived.length > 0 && !signal.aborted) {
      const batch = this.#arrived.splice(0, batchLength(this.#arrived));
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
    const { store, max, logger } = this.#options;
    if (this.#count === undefined) {
      this.#count = 0;
      const pages = recordPages(store, databases.commands, documentId.deadLetter(""), {
        limit: 1_000,
        includeDocs: false,
      });
      for await (const page of pages) this.#count += page.length;
    }
    for (let told = false; this.#count >= max; told = true) {
      if (!told) logger.error({ count: this.#count }, "the limit of dead letters is reached: redrive or discard some");
      await delay(fullRetryMs, undefined, { signal: this.#abort.signal });
    }
  }

  async #take(batch: Arrived[]): Promise<void> {
    const nowMs = this.#options.wallClock().getTime();
    const judged = batch.map((arrived) => ({ ...arrived, verdict: judgeDead(arrived.message, nowMs) }));
    const kept = judged.filter(({ verdict }) => verdict.keep);
    const docs = new Map(
      kept.map(({ message, verdict }) => {
        const doc = documentOf(message, verdict, nowMs);
        return [doc._id, doc] as const;
      }),
    );
    const rows = await this.#database.bulk([...docs.values()]);
    for (const row of rows) {
      // A conflict: this very letter was written before and its ack got lost.
      if ("error" in row && row.error !== "conflict") throw new Error(`${row.id}: ${row.error} ${row.reason}`);
      if ("rev" in row && this.#count !== undefined) this.#count += 1;
    }
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
    };
    await tellOutcome(this.#options.broker, envelope, outcome, { persistent: true, nowMs: now.getTime() });
  }
}

const pageSize = 200;

/** How many of what arrived go together: up to a count and a size that one write takes well. */
function batchLength(arrived: Arrived[]): number {
  let bytes = 0;
  const end = arrived.findIndex(({ message }, index) => {
    bytes += message.content.length;
    return index > 0 && (index >= batchMax || bytes > batchBytesMax);
  });
  return end < 0 ? arrived.length : end;
}

function documentOf({ content, properties }: ConsumeMessage, verdict: Verdict, nowMs: number): DeadLetterDocument {
  const { to, state, reason, envelope } = verdict;
  const messageId: unknown = properties.messageId;
  const id = idOf(properties, content, to, nowMs);
  return {
    _id: documentId.deadLetter(id),
    kind: "dead-letter",
    schemaVersion: 1,
    id,
    state,
    reason,
    at: new Date(nowMs).toISOString(),
    sizeBytes: content.length,
    ...(to === undefined ? {} : { to }),
    ...(typeof messageId === "string" ? { messageId: messageId.slice(0, 128) } : {}),
    ...(envelope === undefined ? {} : fromEnvelope(envelope)),
    ...(content.length === 0
      ? {}
      : {
          _attachments: {
            [bodyAttachment]: { content_type: "application/octet-stream", data: content.toString("base64") },
          },
        }),
  };
}

function fromEnvelope(envelope: Envelope): Partial<DeadLetterDocument> {
  const { name, from, attempt, sentAtMs, contentType } = envelope;
  return {
    envelope,
    name,
    attempt,
    contentType,
    ...(from === undefined ? {} : { from }),
    ...(sentAtMs === undefined ? {} : { sentAt: new Date(sentAtMs).toISOString() }),
  };
}

/**
 * Sorts by the time of death in seconds, and is the same when the same letter is taken twice. The broker's own time where it
 * has one; a letter that a consumer gave up carries only the time of its sending.
 */
function idOf(
  properties: ConsumeMessage["properties"],
  content: Buffer,
  to: string | undefined,
  nowMs: number,
): string {
  const deaths: unknown = properties.headers?.["x-death"];
  const died: unknown = Array.isArray(deaths) ? deaths[0]?.time?.value : properties.timestamp;
  const seconds = typeof died === "number" && died > 0 && died < 1e11 ? died : Math.floor(nowMs / 1000);
  const redriven = redrivenOf(properties.headers);
  const hash = createHash("sha256").update(`${properties.messageId} ${to} ${seconds} ${redriven}\n`).update(content);
  return `${Math.floor(seconds).toString(36).padStart(7, "0")}-${hash.digest("hex").slice(0, 20)}`;
}

const redrivenHeader = "redriven";

function redrivenOf(headers: Record<string, unknown> | undefined): number {
  return Number(headers?.[redrivenHeader] ?? 0) || 0;
}

function listed(doc: DeadLetterDocument): DeadLetter {
  const { id, state, reason, at, to, from, name, messageId, attempt, sentAt, contentType, sizeBytes, envelope } = doc;
  const letter = {
    id,
    state,
    reason,
    at,
    to,
    from,
    name,
    kind: envelope?.kind,
    messageId,
    attempt,
    sentAt,
    contentType,
    sizeBytes,
  };
  return Object.fromEntries(Object.entries(letter).filter(([, value]) => value !== undefined)) as unknown as DeadLetter;
}
