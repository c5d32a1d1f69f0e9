/** `_changes`: normal, long-polling and continuous. */
import type { PouchDB } from "pouchdb";
import { type ChangesFilter, chooseFilter } from "./changes-filter.ts";
import { type Change, readChanges } from "./changes-page.ts";
import { badRequest } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Exchange } from "./exchange.ts";
import { type JsonObject, parseObject } from "./json.ts";
import { limits } from "./limits.ts";
import type { Query } from "./query.ts";
import { inWireOrder } from "./wire-order.ts";

type Kind = "normal" | "longpoll" | "continuous";

interface Feed {
  kind: Kind;
  since: number;
  /** Changes that may still be shown. */
  left: number;
  isDescending: boolean;
  shape: Shape;
  filter: ChangesFilter | undefined;
  /** How long the feed waits for a change before it ends. */
  timeoutMs: number;
  /** Instead of ending, the feed sends a newline this often. */
  heartbeatMs: number | undefined;
}

/** What a change looks like on the wire. */
interface Shape {
  includeDocs: boolean;
  attachments: boolean;
  allLeaves: boolean;
  conflicts: boolean;
}

export async function serveChanges(exchange: Exchange, database: Database): Promise<void> {
  const feed = await readRequest(exchange, database);
  await new FeedWriter(exchange, database, feed).run();
}

async function readRequest(exchange: Exchange, database: Database): Promise<Feed> {
  let body: JsonObject = {};
  if (exchange.method === "POST") {
    exchange.requireJson();
    if (exchange.body.length > 0) body = parseObject(exchange.body);
  }
  const { query } = exchange;
  const named = query.text("feed") ?? "normal";
  const kind = named === "live" ? "continuous" : named;
  if (kind !== "normal" && kind !== "longpoll" && kind !== "continuous") {
    throw badRequest("Supported `feed` types: normal, continuous, live, longpoll");
  }
  const style = query.text("style") ?? "main_only";
  if (style !== "main_only" && style !== "all_docs") throw badRequest("Supported `style`: main_only, all_docs");
  const shape = {
    includeDocs: query.flag("include_docs") ?? false,
    attachments: query.flag("attachments") ?? false,
    allLeaves: style === "all_docs",
    conflicts: query.flag("conflicts") ?? false,
  };
  const since = parseSince(query.text("since"), database.epoch);
  const { filter, from } = await database.use(async (pouch) => ({
    filter: await chooseFilter(exchange, query, body, pouch),
    from: await startingPoint(since, database, pouch),
  }));
  return {
    kind,
    since: from,
    left: query.count("limit") ?? Number.POSITIVE_INFINITY,
    isDescending: query.flag("descending") ?? false,
    shape,
    filter,
    ...readTimes(query),
  };
}

async function startingPoint(since: number | "now", database: Database, pouch: PouchDB.Database): Promise<number> {
  if (since !== "now" && database.tail.hasNothingAfter(since)) return since;
  const newest = (await pouch.info()).update_seq;
  return since === "now" ? newest : Math.min(since, newest);
}

function readTimes(query: Query): { timeoutMs: number; heartbeatMs: number | undefined } {
  const { feedTimeoutMs, heartbeatMs } = limits;
  const timeoutMs = Math.min(query.count("timeout") ?? feedTimeoutMs.default, feedTimeoutMs.max);
  const given = query.text("heartbeat");
  if (given === undefined || given === "false") return { timeoutMs, heartbeatMs: undefined };
  const every = given === "true" ? heartbeatMs.default : (query.count("heartbeat") ?? 0);
  if (every === 0) throw badRequest("The heartbeat value should be a positive integer (in milliseconds).");
  return { timeoutMs, heartbeatMs: Math.min(Math.max(every, heartbeatMs.min), heartbeatMs.max) };
}

/**
 * A sequence is `<number>-<epoch>`; clients take it for opaque. One of another epoch is of a database that was deleted
 * and made again under this name: everything in this one is new to the client.
 */
function parseSince(text: string | undefined, epoch: string): number | "now" {
  if (text === undefined || text === "" || text === '""' || text === "null") return 0;
  if (text === "now") return "now";
  const match = /^"?(\d{1,15})(?:-([0-9a-zA-Z_-]*))?"?$/.exec(text);
  if (match === null) throw badRequest(`Malformed sequence supplied in 'since' parameter: ${text.slice(0, 100)}`);
  return match[2] === undefined || match[2] === epoch ? Number(match[1]) : 0;
}

export const sequenceOf = (seq: number, database: Database) => `${seq}-${database.epoch}`;

class FeedWriter {
  readonly #exchange: Exchange;
  readonly #database: Database;
  readonly #feed: Feed;
  #shown = 0;
  #isGone = false;
  #wakeUp: (() => void) | undefined;

  constructor(exchange: Exchange, database: Database, feed: Feed) {
    this.#exchange = exchange;
    this.#database = database;
    this.#feed = feed;
  }

  async run(): Promise<void> {
    this.#exchange.response.once("close", () => {
      this.#isGone = true;
      this.#wakeUp?.();
    });
    let pending = 0;
    try {
      pending = await this.#show();
    } catch (error) {
      if (!this.#exchange.response.headersSent) throw error;
      // The status is out already: a broken body is the only way left to say that this is not all.
      this.#exchange.response.destroy();
    }
    if (!this.#isGone) this.#finish(pending);
  }

  /** Everything there is, then for the waiting kinds what comes. Resolves with how many changes are left unshown. */
  async #show(): Promise<number> {
    const { kind } = this.#feed;
    let pending = await this.#catchUp();
    while (kind === "continuous" || (kind === "longpoll" && this.#shown === 0)) {
      if (this.#isGone || this.#feed.left === 0 || this.#feed.isDescending) break;
      const news = await this.#next();
      if (news === "over") break;
      if (news.length === 0) pending = await this.#catchUp();
      else await this.#showPage(news);
    }
    return pending;
  }

  async #catchUp(): Promise<number> {
    const feed = this.#feed;
    if (!feed.isDescending && this.#database.tail.hasNothingAfter(feed.since)) return 0;
    while (feed.left > 0) {
      // Without a filter everything that is read is shown, so that no more than the rest has to be read.
      const atMost = feed.filter === undefined ? feed.left : Number.POSITIVE_INFINITY;
      const limit = feed.isDescending ? Math.min(feed.left, maxDescending) : Math.min(atMost, limits.changesPage);
      const page = await this.#database.use((pouch) =>
        readChanges(pouch, { since: feed.since, limit, isDescending: feed.isDescending }),
      );
      await this.#showPage(page.changes);
      if (feed.isDescending || this.#isGone) return 0;
      if (feed.left > 0) feed.since = Math.max(feed.since, page.lastSeq);
      if (feed.left > 0 && !page.isFull) return 0;
    }
    return this.#countPending();
  }

  /** How many changes there may be after the last one shown; 0 is exact, more is an upper bound. */
  async #countPending(): Promise<number> {
    return this.#database.use(async (pouch) => {
      const next = await readChanges(pouch, { since: this.#feed.since, limit: 1 });
      if (next.changes.length === 0) return 0;
      return Math.max(1, (await pouch.info()).update_seq - this.#feed.since);
    });
  }

  /** Waits for the next changes. An empty list: read again. "over": the time is up, or there is nobody to tell. */
  #next(): Promise<Change[] | "over"> {
    const { tail } = this.#database;
    const { heartbeatMs, timeoutMs, since } = this.#feed;
    this.#begin();
    return new Promise((resolve) => {
      const settle = (news: Change[] | "over") => {
        clearInterval(timer);
        tail.cancel(waiter);
        this.#wakeUp = undefined;
        resolve(news);
      };
      const waiter = (changes: Change[]) => settle(changes.length === 0 && tail.isClosed ? "over" : changes);
      const timer = setInterval(() => {
        if (heartbeatMs === undefined) settle("over");
        else this.#exchange.response.write("\n");
      }, heartbeatMs ?? timeoutMs);
      this.#wakeUp = () => settle("over");
      if (this.#isGone || tail.isClosed) settle("over");
      else if (!tail.wait(since, waiter)) settle([]);
    });
  }

  async #showPage(changes: Change[]): Promise<void> {
    const feed = this.#feed;
    const isShown = feed.filter?.(changes);
    let text = "";
    for (const [index, change] of changes.entries()) {
      if (feed.left === 0) break;
      feed.since = change.seq;
      if (isShown?.[index] === false) continue;
      feed.left -= 1;
      const line = await this.#render(change);
      text += feed.kind === "continuous" ? `${line}\n` : `${this.#shown === 0 ? "" : ",\n"}${line}`;
      this.#shown += 1;
    }
    if (text === "") return;
    this.#begin();
    await this.#write(text);
  }

  async #render(change: Change): Promise<string> {
    const { shape } = this.#feed;
    if (shape.includeDocs && shape.attachments && change.doc._attachments !== undefined) {
      const options = { rev: change.revs[0], attachments: true, conflicts: shape.conflicts };
      const doc = await this.#database.use((pouch) => pouch.get(change.id, options));
      return renderChange({ ...change, doc }, shape, sequenceOf(change.seq, this.#database));
    }
    const key = `${shape.includeDocs}${shape.allLeaves}${shape.conflicts}`;
    let line = change.rendered.get(key);
    if (line === undefined) {
      line = renderChange(change, shape, sequenceOf(change.seq, this.#database));
      change.rendered.set(key, line);
    }
    return line;
  }

  /** Sends the head, once: a feed that waits shows at once that it does. */
  #begin(): void {
    const { response } = this.#exchange;
    if (response.headersSent) return;
    response.writeHead(200, { "content-type": "application/json", "cache-control": "must-revalidate" });
    response.write(this.#feed.kind === "continuous" ? "" : '{"results":[\n');
    response.flushHeaders();
  }

  /** A reader that is slower than the writers is waited for; it then reads what it missed from disk. */
  async #write(text: string): Promise<void> {
    const { response } = this.#exchange;
    if (this.#isGone || response.write(text)) return;
    await new Promise<void>((resolve) => {
      this.#wakeUp = resolve;
      response.once("drain", resolve);
    });
    this.#wakeUp = undefined;
  }

  #finish(pending: number): void {
    const end = `"last_seq":${JSON.stringify(sequenceOf(this.#feed.since, this.#database))},"pending":${pending}}\n`;
    this.#begin();
    this.#exchange.response.end(
      this.#feed.kind === "continuous" ? `{${end}` : `${this.#shown > 0 ? "\n" : ""}],\n${end}`,
    );
  }
}

/** A descending feed is read in one go; it is for looking at the newest few. */
const maxDescending = 1_000;

function renderChange(change: Change, shape: Shape, seq: string): string {
  const head = JSON.stringify({
    seq,
    id: change.id,
    changes: (shape.allLeaves ? change.revs : change.revs.slice(0, 1)).map((rev) => ({ rev })),
    ...(change.isDeleted && { deleted: true }),
  });
  return shape.includeDocs ? `${head.slice(0, -1)},"doc":${change.json ?? renderDocument(change.doc, shape)}}` : head;
}

function renderDocument(from: PouchDB.Doc, shape: Shape): string {
  const { _conflicts, ...doc } = inWireOrder(from) as PouchDB.Doc & { _conflicts?: string[] };
  return JSON.stringify(shape.conflicts && _conflicts !== undefined ? { ...doc, _conflicts } : doc);
}
