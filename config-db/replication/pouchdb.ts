/** Replication by PouchDB in this process, between two servers that both are reached over HTTP. */
import { setTimeout as delay } from "node:timers/promises";
import PouchDB from "pouchdb";
import { Agent, type Dispatcher, request } from "undici";
import { LazyCheckpoints } from "./checkpoints.ts";
import {
  heartbeatMs,
  type Replicate,
  type Replication,
  type ReplicationSpec,
  type ReplicationStatus,
  replicated,
  silenceMs,
  withoutCredentials,
} from "./replication.ts";

/** Between two tries: from the first to at most the second, doubling. A healed link is used again within the second. */
const retryMs = { first: 250, max: 2_000 };
/** What a run may take to write its last checkpoint. */
const flushMs = 1_000;
/** Changes taken together. A batch is held in memory, and a layer may have a megabyte. */
const batchSize = 50;
/** A request's body at the target is kept under half of what the embedded store takes. */
const requestBytesMax = 4 * 1024 * 1024;

export function createPouchReplicator(): { replicate: Replicate; close(): Promise<void> } {
  // Its time-outs are the only thing that notices a link which swallows everything.
  const agent = new Agent({ headersTimeout: silenceMs, bodyTimeout: silenceMs, connectTimeout: silenceMs });
  return {
    replicate: (spec) => new PouchReplication(spec, (url, options) => ask(agent, url, options)),
    close: async () => agent.destroy(),
  };
}

/** As much of `fetch` as PouchDB uses, without its streams: these were a third of what replication cost. */
type Fetch = (url: string, options: FetchOptions) => Promise<object>;

interface FetchOptions {
  method?: string;
  headers?: Iterable<[string, string]>;
  body?: string;
  signal?: AbortSignal;
}

async function ask(dispatcher: Agent, url: string, { method = "GET", headers = [], body, signal }: FetchOptions) {
  const {
    statusCode,
    headers: answerHeaders,
    body: answer,
  } = await request(url, {
    dispatcher,
    method: method as Dispatcher.HttpMethod,
    headers: Object.fromEntries(headers),
    body: body ?? null,
    signal: signal ?? null,
  });
  return {
    ok: statusCode < 400,
    status: statusCode,
    headers: { get: (name: string) => answerHeaders[name.toLowerCase()] ?? null },
    json: () => answer.json(),
    text: () => answer.text(),
    // For attachments; it is Node's, so PouchDB takes it as it is.
    buffer: async () => Buffer.from(await answer.arrayBuffer()),
  };
}

class PouchReplication implements Replication {
  readonly #spec: ReplicationSpec;
  readonly #fetch: Fetch;
  /** What the target refused, by document: one that gets in later is forgotten. */
  readonly #refused = new Map<string, string>();
  #status: Omit<ReplicationStatus, "refused"> = { state: "starting", documentsWritten: 0 };
  #running: PouchDB.Replication | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;
  #closed = false;

  constructor(spec: ReplicationSpec, fetch: Fetch) {
    this.#spec = spec;
    this.#fetch = fetch;
    this.#run();
  }

  status(): ReplicationStatus {
    const last = [...this.#refused.values()].at(-1);
    return { ...this.#status, refused: { count: this.#refused.size, ...(last === undefined ? {} : { last }) } };
  }

  retry(): void {
    if (this.#timer === undefined || this.#closed) return;
    clearTimeout(this.#timer);
    this.#run();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#running?.cancel();
    await this.#ended;
  }

  /** One run: until it fails. PouchDB's own retrying stops for good at a 401, so this file does it. */
  #run(): void {
    this.#timer = undefined;
    const { database, sourceUrl, targetUrl, targetHas } = this.#spec;
    const source = this.#open(sourceUrl, database);
    const target = this.#open(targetUrl, database);
    const checkpoints = [new LazyCheckpoints(source), new LazyCheckpoints(target)];
    leaveOutStatistics(source);
    fetchByBulkGet(source);
    takeRefusalsAsSuch(target);
    if (targetHas !== undefined) askOnlyForUnknown(target, targetHas);
    const running = source.replicate.to(target, {
      live: true,
      retry: false,
      selector: replicated,
      batch_size: batchSize,
      heartbeat: heartbeatMs,
      timeout: 6 * heartbeatMs,
    });
    this.#running = running;
    const before = this.#status.documentsWritten;
    running.on("active", () => this.#now({ state: "active" }));
    running.on("paused", (error: Error | undefined) => {
      if (error) return;
      this.#failures = 0;
      const { lastError: _lastError, ...status } = this.#status;
      this.#status = { ...status, state: "idle", pending: 0 };
    });
    running.on("change", ({ docs_written, last_seq, pending, docs }: Progress) => {
      this.#failures = 0;
      for (const { _id } of docs) this.#refused.delete(_id);
      this.#now({
        state: "active",
        documentsWritten: before + docs_written,
        checkpoint: String(last_seq),
        ...(pending === undefined ? {} : { pending }),
      });
    });
    running.on("denied", ({ id, reason }: { id: string; reason?: string }) => {
      this.#refused.set(id, `${id}: ${reason ?? "refused"}`);
    });
    // It has an error event and rejects, both: the promise is the one that always comes.
    running.on("error", () => {});
    this.#ended = running
      .then(
        () => this.#failed(new Error("the replication ended")),
        (error: unknown) => this.#failed(error),
      )
      // A link that swallows everything must not hold up a close.
      .then(() =>
        Promise.race([Promise.all(checkpoints.map((one) => one.flush())), delay(flushMs, undefined, { ref: false })]),
      );
  }

  #now(change: Partial<ReplicationStatus>): void {
    this.#status = { ...this.#status, ...change };
  }

  #failed(error: unknown): void {
    this.#running = undefined;
    if (this.#closed) return;
    this.#now({ state: "error", lastError: describe(error) });
    const wait = Math.min(retryMs.max, retryMs.first * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 10);
    // Jitter: many sites that lost the same peer must not come back in step.
    this.#timer = setTimeout(() => this.#run(), wait * (0.5 + Math.random() / 2));
  }

  #open(serverUrl: string, database: string): PouchDB.Database {
    const { restMs = 0 } = this.#spec;
    const fetch: Fetch = async (url, options) => {
      // What changes meanwhile comes in one answer.
      if (restMs > 0 && url.includes("feed=longpoll")) await delay(restMs * (0.5 + Math.random()));
      return this.#fetch(url, options);
    };
    return new PouchDB(`${serverUrl.replace(/\/$/, "")}/${database}`, { adapter: "http", skip_setup: true, fetch });
  }
}

interface Progress {
  docs_written: number;
  last_seq: string | number;
  pending?: number;
  docs: { _id: string }[];
}

/**
 * After each batch PouchDB asks the source for `info`, for statistics that nobody reads here, and drops the promise: a link
 * that is cut at that moment would end this process.
 */
function leaveOutStatistics(source: PouchDB.Database): void {
  source.info = async () => ({ db_name: "", doc_count: 0, update_seq: 0 });
}

/**
 * Fetches revisions by `_bulk_get` alone. PouchDB takes the first failure of it, such as a link that is cut at that moment, to
 * mean that the server does not know it, and asks for each revision by itself from then on, for as long as the process lives.
 */
function fetchByBulkGet(source: PouchDB.Database): void {
  const handle = source as unknown as {
    fetch(path: string, options: object): Promise<{ ok: boolean; status: number; json(): Promise<unknown> }>;
    bulkGet(request: { docs: object[] }): Promise<unknown>;
  };
  handle.bulkGet = async ({ docs }) => {
    const headers = new Headers({ "content-type": "application/json", accept: "application/json" });
    const options = { method: "POST", headers, body: JSON.stringify({ docs }) };
    const answer = await handle.fetch("_bulk_get?revs=true&latest=true", options);
    const result = await answer.json();
    if (answer.ok) return result;
    throw Object.assign(new Error(`_bulk_get answered ${answer.status}`), { status: answer.status }, result);
  };
}

type RevisionsByDocument = Record<string, string[]>;

/** Leaves out of `_revs_diff` what the target is known to have, and the whole request where that is everything. */
function askOnlyForUnknown(target: PouchDB.Database, has: (id: string, rev: string) => boolean): void {
  const handle = target as unknown as { revsDiff(asked: RevisionsByDocument): Promise<object> };
  const revsDiff = handle.revsDiff.bind(handle);
  handle.revsDiff = async (asked) => {
    const unknown = Object.entries(asked).flatMap(([id, revs]): [string, string[]][] => {
      const left = revs.filter((rev) => !has(id, rev));
      return left.length === 0 ? [] : [[id, left]];
    });
    return unknown.length === 0 ? {} : revsDiff(Object.fromEntries(unknown));
  };
}

/**
 * Lets a document that the target refuses be passed over. PouchDB knows a refusal by `name`, which servers do not send:
 * it would stop, try again and stop at the same document for ever. Also keeps each request small enough for the target.
 */
function takeRefusalsAsSuch(target: PouchDB.Database): void {
  const write = target.bulkDocs.bind(target);
  target.bulkDocs = (async (given: object[] | { docs: object[] }, options?: { new_edits?: boolean }) => {
    const { docs, ...rest } = Array.isArray(given) ? { docs: given } : given;
    const rows: PouchDB.BulkRow[] = [];
    for (const chunk of chunks(docs as { _id: string }[])) {
      rows.push(...(await writeChunk(write, { docs: chunk, ...rest }, options)));
    }
    return rows.map((row) => (row.error === "forbidden" ? { ...row, name: "forbidden" } : row));
  }) as typeof target.bulkDocs;
}

async function writeChunk(
  write: PouchDB.Database["bulkDocs"],
  request: { docs: { _id: string }[] },
  options: { new_edits?: boolean } | undefined,
): Promise<PouchDB.BulkRow[]> {
  try {
    return await write(request as unknown as object[], options);
  } catch (error) {
    const [only, ...others] = request.docs;
    if ((error as { status?: number }).status !== 413 || only === undefined || others.length > 0) throw error;
    return [{ id: only._id, error: "forbidden", reason: "is larger than the target takes" }];
  }
}

function* chunks<Doc>(docs: Doc[]): Generator<Doc[]> {
  let chunk: Doc[] = [];
  let bytes = 0;
  for (const doc of docs) {
    const size = Buffer.byteLength(JSON.stringify(doc));
    if (chunk.length > 0 && bytes + size > requestBytesMax) {
      yield chunk;
      chunk = [];
      bytes = 0;
    }
    chunk.push(doc);
    bytes += size;
  }
  if (chunk.length > 0) yield chunk;
}

function describe(error: unknown): string {
  const { reason, message, cause } = error as { reason?: string; message?: string; cause?: { message?: string } };
  return withoutCredentials([reason ?? message ?? String(error), cause?.message].filter(Boolean).join(": ")).slice(
    0,
    500,
  );
}
