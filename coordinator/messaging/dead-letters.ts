/** Dead letters in the store: listed, sent again and discarded for as long as it takes (docs/adr/0305). */
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { type ErrorCode, isMusterError, MusterError } from "../../config-db/errors.ts";
import type { DeadLetterMatch } from "../../config-db/generated/types.ts";
import { databases, documentId } from "../../config-db/names.ts";
import type { Database } from "../../config-db/store.ts";
import { matches, redriveRoute } from "./dead-letter.ts";
import {
  arrivedAtMs,
  bodyAttachment,
  type DeadLetter,
  type DeadLetterDocument,
  deadLetterIdPattern,
  listed,
} from "./dead-letter-document.ts";
import { DeadLetterIntake, type DeadLetterIntakeOptions } from "./dead-letter-intake.ts";
import type { Envelope, Letter } from "./envelope.ts";
import type { RoutePlan, Sender } from "./send.ts";
import type { Tracking } from "./tracking.ts";

export interface DeadLettersOptions extends DeadLetterIntakeOptions {
  sender: Sender;
  tracking: Tracking;
  /** How long a letter is left to whoever is sending it again, in milliseconds; 30,000 if not given. */
  claimMs?: number;
  /** After so long a redrive or discard of many takes no further letter, in milliseconds; 20,000 if not given. */
  manyMs?: number;
}

const defaultClaimMs = 30_000;
const claimPollMs = 100;

/** Records gone through for one page of a filtered list, so that a query has an end. */
const scannedMax = 5_000;
/** Letters that one redrive or discard of many sends or drops, if it has not taken too long before: its caller waits for it. */
const manyMax = 1_000;
const defaultManyMs = 20_000;
/** Reasons that one redrive of many tells apart. */
const refusalsMax = 20;

/** Why letters were not sent again, and how many. */
export interface Refusal {
  code: ErrorCode;
  detail: string;
  count: number;
}

/** What a dead letter must have to be sent again. */
interface Sendable {
  envelope: Envelope;
  to: string;
  plan: RoutePlan;
}

interface Redriven {
  redriven: number;
  /** They stay. */
  refused: number;
  /** The first 20 reasons for that. */
  refusals: Refusal[];
  more: boolean;
  /** For the next call, where there are more. */
  cursor?: string;
}

export class DeadLetters {
  readonly #options: DeadLettersOptions;
  readonly #database: Database<DeadLetterDocument>;
  readonly #intake: DeadLetterIntake;

  constructor(options: DeadLettersOptions) {
    this.#options = options;
    this.#database = options.store.database<DeadLetterDocument>(databases.commands);
    this.#intake = new DeadLetterIntake(options);
  }

  start(): void {
    this.#intake.start();
  }

  async close(): Promise<void> {
    await this.#intake.close();
  }

  /** How many are kept, once that was counted. */
  get count(): number | undefined {
    return this.#intake.count;
  }

  /** The oldest first. `cursor` is the id to go on after. @throws MusterError `invalid-request` when it is none. */
  async list(options: { match?: DeadLetterMatch; limit: number; cursor?: string }): Promise<{
    deadLetters: DeadLetter[];
    cursor?: string;
  }> {
    const { match, limit, cursor } = options;
    if (cursor !== undefined && !deadLetterIdPattern.test(cursor)) throw noCursor(cursor);
    const deadLetters: DeadLetter[] = [];
    let after = cursor === undefined ? undefined : documentId.deadLetter(cursor);
    for (let scanned = 0; scanned < scannedMax; ) {
      const page = await this.#database.page(documentId.deadLetter(""), {
        limit: pageSize,
        withDocs: true,
        ...(after === undefined ? {} : { after }),
      });
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
    await this.#discard(await this.#read(id));
  }

  /**
   * Sends all again that match, a thousand a call, or as many as 20 s allow; those that cannot be sent cost nothing and stay.
   * Behind `cursor` go on those that were there when the first call began: what fails again at once is not sent for ever.
   * @throws MusterError `invalid-request` when `cursor` is none; `broker-unavailable`, `store-unavailable`.
   */
  async redriveMany(match?: DeadLetterMatch, cursor?: string): Promise<Redriven> {
    // What comes after a letter that its target does not take must not overtake it.
    const closed = new Map<string | undefined, MusterError>();
    const { done, ...rest } = await this.#overMany(match, cursor, async (doc) => {
      const closing = closed.get(doc.to);
      if (closing !== undefined) throw closing;
      try {
        await this.#redrive(doc);
      } catch (error) {
        if (isMusterError(error, "no-such-target") || isMusterError(error, "too-many")) closed.set(doc.to, error);
        throw error;
      }
    });
    return { redriven: done, ...rest };
  }

  /** As `redriveMany`. */
  async discardMany(
    match?: DeadLetterMatch,
    cursor?: string,
  ): Promise<{ discarded: number; more: boolean; cursor?: string }> {
    const {
      done,
      refused: _,
      refusals: __,
      ...rest
    } = await this.#overMany(match, cursor, (doc) => this.#discard(doc));
    return { discarded: done, ...rest };
  }

  async #overMany(
    match: DeadLetterMatch | undefined,
    cursor: string | undefined,
    work: (doc: DeadLetterDocument) => Promise<void>,
  ): Promise<Omit<Redriven, "redriven"> & { done: number }> {
    const { ids, untilMs } = await this.#behind(cursor);
    const refusals = new Map<string, Refusal>();
    const outcome = { done: 0, refused: 0 };
    const { manyMs = defaultManyMs } = this.#options;
    const endsAtMs = performance.now() + manyMs;
    let last = "";
    for (let at = 0; at < ids.length; at += pageSize) {
      const page = ids.slice(at, at + pageSize).map((id) => documentId.deadLetter(id));
      for (const doc of await this.#database.getMany(page)) {
        const isMatch = matches(doc, match);
        const isLate = last !== "" && performance.now() > endsAtMs;
        if (isLate || (isMatch && outcome.done >= manyMax))
          return {
            ...outcome,
            refusals: [...refusals.values()],
            more: true,
            cursor: `${untilMs.toString(36)}.${last}`,
          };
        last = doc.id;
        if (!isMatch) continue;
        try {
          // One after another: their order is the order of their senders.
          await work(doc);
          outcome.done += 1;
        } catch (error) {
          if (!(error instanceof MusterError) || error.status >= 500) throw error;
          // Another was faster.
          if (error.code === "not-found") continue;
          outcome.refused += 1;
          const { code, message: detail } = error;
          const refusal = refusals.get(detail);
          if (refusal !== undefined) refusal.count += 1;
          else if (refusals.size < refusalsMax) refusals.set(detail, { code, detail, count: 1 });
        }
      }
    }
    return { ...outcome, refusals: [...refusals.values()], more: false };
  }

  /** The letters behind `cursor` that were there when the first call began, which gets all; and the last arrival of those. */
  async #behind(cursor: string | undefined): Promise<{ ids: string[]; untilMs: number }> {
    const [until, after = ""] = cursor?.split(".") ?? [];
    if (cursor !== undefined && (!/^[0-9a-z]{1,11}$/.test(until ?? "") || !deadLetterIdPattern.test(after)))
      throw noCursor(cursor);
    const prefix = documentId.deadLetter("");
    const behind = after === "" ? {} : { after: documentId.deadLetter(after) };
    const kept = (await this.#database.ids(prefix, behind)).map((id) => id.slice(prefix.length));
    const untilMs =
      until === undefined
        ? kept.reduce((latest, id) => Math.max(latest, arrivedAtMs(id)), 0)
        : Number.parseInt(until, 36);
    return { ids: kept.filter((id) => arrivedAtMs(id) <= untilMs), untilMs };
  }

  async #redrive(found: DeadLetterDocument): Promise<void> {
    const sendable = this.#sendable(found);
    const doc = await this.#claim(found);
    try {
      await this.#send(doc, sendable);
    } catch (error) {
      const { claim: _, ...free } = doc;
      await this.#database.put(free).catch(() => undefined); // Its time limit frees it, too.
      throw error;
    }
    await this.#remove(doc);
  }

  /** @throws MusterError `refused` for what cannot be sent again, `no-such-target`. */
  #sendable({ envelope, to, reason }: DeadLetterDocument): Sendable {
    if (envelope === undefined || redriveRoute(envelope.kind, to) === undefined || to === undefined)
      throw new MusterError(
        "refused",
        envelope === undefined
          ? `the dead letter is malformed (${reason}) and can only be discarded`
          : `a ${envelope.kind} of which ${to === undefined ? "nobody knows the target" : "the sender waits no more"} can only be discarded`,
      );
    const target = to.startsWith("any:") ? { any: to.slice("any:".length) } : { component: to };
    return { envelope, to, plan: this.#options.sender.plan(target, "command") };
  }

  async #send(doc: DeadLetterDocument, { envelope, to, plan }: Sendable): Promise<void> {
    const { sender, tracking, wallClock } = this.#options;
    const { deadlineAtMs: _, reason: __, error: ___, ...fresh } = envelope;
    // Counted, so that nobody takes it for an echo of what failed: not its consumer, nor we when it dies again within the second.
    const redriven = (fresh.redriven ?? 0) + 1;
    const letter: Letter = { envelope: { ...fresh, attempt: 1, redriven }, content: await this.#content(doc) };
    const { messageId: id, replyTo } = envelope;
    const isTracked = replyTo !== undefined && (await tracking.requeued(id, to, redriven));
    try {
      await sender.send(plan, letter);
    } catch (error) {
      const { state, reason } = doc;
      const at = wallClock().toISOString();
      if (isTracked)
        await tracking.outcome({ id, component: to, state, reason, attempt: envelope.attempt, at, redriven });
      throw error;
    }
  }

  async #discard(found: DeadLetterDocument): Promise<void> {
    let doc = found.claim === undefined ? found : await this.#unclaimed(found.id);
    while (!(await this.#remove(doc))) doc = await this.#unclaimed(found.id);
  }

  /**
   * Writes into the letter that it is being sent again, so that of several who would, at any coordinator, one does. It is
   * removed only after it was sent: whoever dies in between leaves it, and it is sent twice rather than lost.
   */
  async #claim(found: DeadLetterDocument): Promise<DeadLetterDocument> {
    let doc = found.claim === undefined ? found : await this.#unclaimed(found.id);
    for (; ; doc = await this.#unclaimed(found.id)) {
      const claimed = { ...doc, claim: randomUUID() };
      try {
        return { ...claimed, _rev: await this.#database.put(claimed) };
      } catch (error) {
        if (!isMusterError(error, "conflict")) throw error;
      }
    }
  }

  /**
   * Waits while somebody is sending the letter again; who takes too long has died. Judged by the own clock alone.
   * @throws MusterError `not-found` when it was sent.
   */
  async #unclaimed(id: string): Promise<DeadLetterDocument> {
    const { claimMs = defaultClaimMs } = this.#options;
    let doc = await this.#read(id);
    for (let { claim } = doc, sinceMs = performance.now(); doc.claim !== undefined; doc = await this.#read(id)) {
      if (doc.claim !== claim) [claim, sinceMs] = [doc.claim, performance.now()];
      if (performance.now() - sinceMs >= claimMs) break;
      await delay(claimPollMs);
    }
    return doc;
  }

  async #read(id: string): Promise<DeadLetterDocument> {
    const doc = deadLetterIdPattern.test(id) ? await this.#database.get(documentId.deadLetter(id)) : undefined;
    if (doc === undefined) throw new MusterError("not-found", `no dead letter "${id.slice(0, 100)}" is kept`);
    return doc;
  }

  async #content(doc: DeadLetterDocument): Promise<Buffer> {
    if (doc.sizeBytes === 0) return Buffer.alloc(0);
    const content = await this.#database.getAttachment(doc._id, bodyAttachment);
    if (content === undefined) throw new MusterError("not-found", `the dead letter "${doc.id}" was removed meanwhile`);
    return content;
  }

  /** @returns false when it was changed meanwhile. */
  async #remove({ _id, _rev }: DeadLetterDocument): Promise<boolean> {
    const [row] = await this.#database.bulk([{ _id, _rev, _deleted: true } as DeadLetterDocument]);
    if (row === undefined || !("rev" in row)) return false;
    this.#intake.removed();
    return true;
  }
}

const pageSize = 200;

function noCursor(given: string): MusterError {
  return new MusterError(
    "invalid-request",
    `"${given.slice(0, 100)}" is no cursor that an answer about dead letters had`,
  );
}
