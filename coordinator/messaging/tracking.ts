/**
 * Tracked commands: what each target did with them. The record in the store is the truth; outcomes come over the broker,
 * are acked when their record is written, and one coordinator of the site at a time takes them in. Others, and those
 * who wait, learn from the changes feed.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { ConsumeMessage } from "amqplib";
import { LRUCache } from "lru-cache";
import type { Logger } from "pino";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { MusterError } from "../../config-db/errors.ts";
import type { CommandDocument, OutcomeMessage } from "../../config-db/generated/types.ts";
import { databases, documentId, queues } from "../../config-db/names.ts";
import { generationOf } from "../../config-db/revision.ts";
import type { Change, Database, Document, Store, Stored } from "../../config-db/store.ts";
import { check } from "../../config-db/validate.ts";
import { sameJson } from "../config/etag.ts";
import type { Broker } from "./broker.ts";
import {
  applyOutcome,
  expire,
  hasEnded,
  isSent,
  type NewCommand,
  newCommandRecord,
  requeue,
} from "./command-record.ts";
import { readLetter } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import { RecordChanges } from "./record-changes.ts";

export interface TrackingLimits {
  /** How long an ended command is kept, in milliseconds from its sending. */
  retentionMs: number;
  /** One that does not end, because its target is away, is kept longer than a target's queue is. */
  openRetentionMs: number;
  /** Beyond so many the oldest ended ones go before their time. */
  commandsMax: number;
}

const dayMs = 24 * 3_600_000;
export const defaultTrackingLimits: TrackingLimits = {
  retentionMs: dayMs,
  openRetentionMs: 8 * dayMs,
  commandsMax: 100_000,
};

export interface TrackingOptions {
  store: Store;
  broker: Broker;
  site: string;
  logger: Logger;
  limits: TrackingLimits;
  wallClock: () => Date;
  /** Resolves when the queue of outcomes stands. */
  ready: () => Promise<void>;
}

type Record = Stored<CommandDocument>;

/** A command that may be sent now. */
export interface Begun {
  /** False where an earlier send left it unknown whether the broker has it. */
  isNew: boolean;
  /** Counted from its first sending. */
  deadline: { deadlineAtMs?: number };
}

/** What is remembered of every command that is kept: a hundred bytes each. */
export interface Kept {
  sentAtMs: number;
  deadlineAtMs: number | undefined;
  ended: boolean;
}

/** Ids of commands that can have been tracked; the store refuses some others. */
const idPattern = /^[A-Za-z0-9_-]{1,128}$/;
/** Targets of records in memory, over all of them. */
const cachedTargetsMax = 200_000;
const prefetch = 2_000;
const sweepEveryMs = 1_000;
const dropEverySweeps = 60;
const dropBatch = 500;
/** Time for the outcome of one that began just before its deadline. */
const deadlineGraceMs = 3_000;
const storeRetryMs = 1_000;
/** A publish takes 5 s at most, and is written down a second later: who has not done so by then has died over it. */
const sendingMs = 7_000;
const sendingPollMs = 100;

export class Tracking {
  readonly #options: TrackingOptions;
  readonly #database: Database<CommandDocument>;
  readonly #changes: RecordChanges<CommandDocument>;
  readonly #feed: ChangesFeed;
  readonly #abort = new AbortController();
  readonly #records: LRUCache<string, Record>;
  readonly #kept = new Map<string, Kept>();
  readonly #deadlines = new Map<string, number>();
  readonly #watchers = new Map<string, Set<(record: Record) => void>>();
  /** Begun here, and not known to be sent. */
  readonly #unsent = new Set<string>();
  /** Sent from here since the last sweep. */
  readonly #sent = new Set<string>();
  #opened: ReturnType<Broker["channel"]> | undefined;
  #sweeping: NodeJS.Timeout | undefined;
  #sweeps = 0;
  #background: Promise<unknown> = Promise.resolve();
  /** Outcomes of commands that are not kept, and messages that are no outcomes, since the start. */
  readonly strays = { unknown: 0, malformed: 0 };

  constructor(options: TrackingOptions) {
    this.#options = options;
    const database = options.store.database<CommandDocument>(databases.commands);
    this.#database = database;
    this.#records = new LRUCache({
      maxSize: cachedTargetsMax,
      sizeCalculation: ({ targets }) => 1 + Object.keys(targets).length,
    });
    this.#changes = new RecordChanges({
      database,
      known: (id) => this.#records.get(id),
      seen: (record) => this.#saw(record),
    });
    this.#feed = new ChangesFeed(options.store.database<Document>(databases.commands), {
      onChanges: (changes) => this.apply(changes),
    });
  }

  /** @throws MusterError `store-unavailable` */
  async start(): Promise<void> {
    const { update_seq } = await this.#database.info();
    await this.#feed.start(update_seq);
    this.#opened = this.#options.broker.channel({
      name: "outcomes",
      setup: async (channel) => {
        await this.#options.ready();
        await consume(channel, queues.outcomes(this.#options.site), { prefetch }, (message) => {
          this.#take(message)
            .then(() => channel.ack(message))
            .catch(() => undefined); // The channel is gone: the outcome comes again.
        });
      },
    });
    this.#background = this.#readIn().catch((error) => this.#report(error, "the kept commands could not be read in"));
    this.#sweeping = setInterval(() => {
      this.#background = this.#background.then(() => this.#sweep());
    }, sweepEveryMs);
  }

  async close(): Promise<void> {
    clearInterval(this.#sweeping);
    this.#abort.abort();
    await this.#opened?.close();
    await this.#feed.close();
    await this.#background;
    await this.#changes.settled();
    this.#watchers.clear();
  }

  /** How many commands are kept, as far as they were read in. */
  get kept(): number {
    return this.#kept.size;
  }

  /**
   * Resolves when a command may be sent: its record is stored. Undefined when it was sent before; whether another
   * coordinator is about to send it is waited for.
   * @throws MusterError `refused` when another command has this id; `store-unavailable`; `too-many`.
   */
  async begin(command: NewCommand): Promise<Begun | undefined> {
    const name = documentId.command(command.id);
    for (const giveUpAtMs = performance.now() + sendingMs; ; await delay(sendingPollMs)) {
      let isNew = false;
      const record = await this.#changes.change(
        name,
        (before) => {
          isNew = before === undefined;
          return before ?? newCommandRecord(command, this.#nowMs());
        },
        { isNew: true },
      );
      if (record?.fingerprint !== command.fingerprint)
        throw new MusterError("refused", `a command with the id "${command.id}" was sent before and was another one`);
      if (isSent(record)) return undefined;
      if (!isNew && !this.#unsent.has(name) && performance.now() < giveUpAtMs) continue;
      this.#unsent.add(name);
      const { deadlineAt } = record;
      return { isNew, deadline: deadlineAt === undefined ? {} : { deadlineAtMs: Date.parse(deadlineAt) } };
    }
  }

  /** The broker has it. That is written with the next sweep, unless a target has answered by then. */
  sent(id: string): void {
    const name = documentId.command(id);
    this.#unsent.delete(name);
    this.#sent.add(name);
  }

  /** Takes back the record of a command that could not be sent. */
  async forget(id: string): Promise<void> {
    await this.#changes.change(documentId.command(id), (record) =>
      record === undefined ? undefined : { ...record, _deleted: true },
    );
  }

  /**
   * The record of a command; kept in memory from then on while it is watched.
   * @throws MusterError `not-found`, `store-unavailable`.
   */
  async read(id: string): Promise<Record> {
    const documentName = documentId.command(id);
    const cached = this.#records.get(documentName);
    if (cached !== undefined) return cached;
    const record = idPattern.test(id) ? await this.#database.get(documentName) : undefined;
    if (record === undefined)
      throw new MusterError(
        "not-found",
        `no command "${id.slice(0, 128)}" is kept: it was not tracked, was sent at another site, or its retention time is over`,
      );
    // Who watches is told: the feed may have brought less until now, and what it brings then is no news.
    this.#saw(record);
    return this.#records.get(documentName) ?? record;
  }

  /** Calls back with every later state of a command. @returns what ends that. */
  watch(id: string, changed: (record: Record) => void): () => void {
    const name = documentId.command(id);
    const watchers = this.#watchers.get(name) ?? new Set();
    this.#watchers.set(name, watchers.add(changed));
    return () => {
      watchers.delete(changed);
      if (watchers.size === 0 && this.#watchers.get(name) === watchers) this.#watchers.delete(name);
    };
  }

  /** Takes in what a target did. An outcome of a command that is not kept is dropped. */
  async outcome(outcome: OutcomeMessage): Promise<void> {
    await this.#changes.change(documentId.command(outcome.id), (record) => {
      if (record === undefined) this.strays.unknown += 1;
      return record === undefined ? undefined : applyOutcome(record, outcome);
    });
  }

  /**
   * A dead letter of this command is about to be sent again to `target`, for the `redriven`th time.
   * @returns false when the command is not kept here.
   */
  async requeued(id: string, target: string, redriven: number): Promise<boolean> {
    const nowMs = this.#nowMs();
    const record = await this.#changes.change(documentId.command(id), (before) =>
      before === undefined ? undefined : requeue(before, target, redriven, nowMs),
    );
    return record !== undefined;
  }

  /** What other coordinators wrote, and the echo of what this one did. */
  apply(changes: Change[]): void {
    for (const { id, deleted, doc } of changes) {
      if (!id.startsWith(documentId.command(""))) continue;
      if (deleted) this.#drop(id);
      else this.#saw(doc as unknown as Record);
    }
  }

  // --- outcomes ------------------------------------------------------------------------------------------------

  async #take(message: ConsumeMessage): Promise<void> {
    const outcome = readOutcome(message);
    if (outcome === undefined) {
      this.strays.malformed += 1;
      return;
    }
    const { signal } = this.#abort;
    for (let failures = 0; ; failures += 1) {
      try {
        await this.outcome(outcome);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (failures === 0) this.#report(error, "an outcome waits for the store");
        await new Promise((resolve) => setTimeout(resolve, storeRetryMs));
        signal.throwIfAborted();
      }
    }
  }

  // --- memory --------------------------------------------------------------------------------------------------

  #saw(record: Record): void {
    if (record._deleted === true) {
      this.#drop(record._id);
      return;
    }
    const before = this.#records.peek(record._id);
    // Told of twice; or an acknowledgement or an answer that comes after the feed has brought what replaced it.
    if (!isLater(record, before)) return;
    this.#records.set(record._id, record);
    this.#keep(record);
    const watchers = this.#watchers.get(record._id);
    // That the broker has it is nothing that they see.
    if (watchers === undefined || (before !== undefined && sameJson(before.targets, record.targets))) return;
    for (const changed of [...watchers]) changed(record);
  }

  #keep(record: CommandDocument): void {
    const deadlineAtMs = record.deadlineAt === undefined ? undefined : Date.parse(record.deadlineAt);
    const ended = hasEnded(record);
    this.#kept.set(record._id, { sentAtMs: Date.parse(record.sentAt), deadlineAtMs, ended });
    if (deadlineAtMs !== undefined && !ended) this.#deadlines.set(record._id, deadlineAtMs);
    else this.#deadlines.delete(record._id);
  }

  #drop(id: string): void {
    this.#records.delete(id);
    this.#kept.delete(id);
    this.#deadlines.delete(id);
    this.#unsent.delete(id);
    this.#sent.delete(id);
  }

  // --- time ----------------------------------------------------------------------------------------------------

  /** After a start: which commands are kept, which have deadlines. */
  async #readIn(): Promise<void> {
    const pages = this.#database.pages(documentId.command(""), { limit: 500, withDocs: true });
    for await (const page of pages) {
      if (this.#abort.signal.aborted) return;
      for (const { doc } of page) if (doc !== undefined && !this.#kept.has(doc._id)) this.#keep(doc);
    }
  }

  async #sweep(): Promise<void> {
    if (this.#abort.signal.aborted) return;
    try {
      await this.#markSent();
      await this.#expireLate();
      this.#sweeps += 1;
      if (this.#sweeps % dropEverySweeps === 0) await this.#dropOld();
    } catch (error) {
      this.#report(error, "kept commands could not be gone through");
    }
  }

  async #markSent(): Promise<void> {
    const mark = (record: Record | undefined) =>
      record === undefined || isSent(record) ? undefined : { ...record, sent: true as const };
    await Promise.all(
      [...this.#sent].map(async (name) => {
        await this.#changes.change(name, mark);
        this.#sent.delete(name);
      }),
    );
  }

  async #expireLate(): Promise<void> {
    const nowMs = this.#nowMs();
    const late = [...this.#deadlines].filter(([, deadlineAtMs]) => deadlineAtMs + deadlineGraceMs <= nowMs);
    await Promise.all(
      late.slice(0, dropBatch).map(async ([id]) => {
        // Once is enough: what is left then has begun, and ends by its outcome.
        this.#deadlines.delete(id);
        await this.#changes.change(id, (record) => (record === undefined ? undefined : expire(record, nowMs)));
        this.#deadlines.delete(id);
      }),
    );
  }

  /** Removes the records whose time is over, and the oldest ended ones of too many. */
  async #dropOld(): Promise<void> {
    const ids = toDrop(this.#kept, this.#options.limits, this.#nowMs());
    for (let start = 0; start < ids.length; start += dropBatch) {
      const batch = ids.slice(start, start + dropBatch);
      const records = await this.#database.getMany<CommandDocument>(batch);
      // Redriven, which nobody here has heard of yet, or just changed: these have their turn at a later sweep.
      const redriven = records.filter((record) => this.#kept.get(record._id)?.ended === true && !hasEnded(record));
      const left = new Set(redriven.map(({ _id }) => _id));
      const due = records.filter(({ _id }) => !left.has(_id));
      const rows = await this.#database.bulk(
        due.map(({ _id, _rev, ...rest }) => ({ ...rest, _id, _rev, targets: {}, _deleted: true })),
      );
      for (const row of rows) if ("error" in row) left.add(row.id);
      for (const id of batch) if (!left.has(id)) this.#drop(id);
    }
  }

  #report(error: unknown, what: string): void {
    if (!this.#abort.signal.aborted) this.#options.logger.warn({ error: String(error) }, what);
  }

  #nowMs(): number {
    return this.#options.wallClock().getTime();
  }
}

/** The commands whose time is over, and of too many the oldest ended ones. */
export function toDrop(kept: ReadonlyMap<string, Kept>, limits: TrackingLimits, nowMs: number): string[] {
  const { retentionMs, openRetentionMs, commandsMax } = limits;
  const over: [string, Kept][] = [];
  const ended: [string, Kept][] = [];
  for (const one of kept) {
    const [, command] = one;
    if (command.sentAtMs + (command.ended ? retentionMs : openRetentionMs) <= nowMs) over.push(one);
    else if (command.ended) ended.push(one);
  }
  const excess = kept.size - over.length - commandsMax;
  // They stand in the order in which they were heard of: after a start in that of their ids.
  if (excess > 0) over.push(...ended.sort(([, one], [, other]) => one.sentAtMs - other.sentAtMs).slice(0, excess));
  return over.map(([id]) => id);
}

function readOutcome(message: ConsumeMessage): OutcomeMessage | undefined {
  const letter = readLetter(message);
  if ("fault" in letter || letter.envelope.kind !== "outcome" || letter.content.length === 0) return undefined;
  const outcome: unknown = JSON.parse(letter.content.toString("utf8"));
  if (check("outcome-message", outcome).length > 0) return undefined;
  const told = outcome as OutcomeMessage;
  // Nobody speaks for another; a coordinator, which is nobody's `from`, speaks for the dead letters.
  const { from } = letter.envelope;
  return from === undefined || from === told.component ? told : undefined;
}

/** Whether a revision replaced another: only one branch is ever made here. */
function isLater({ _rev }: Record, than: Record | undefined): boolean {
  return than === undefined || generationOf(_rev) > generationOf(than._rev);
}
