/**
 * The site's config database, reached over HTTP by nano: a real CouchDB or the embedded one, alike. Two things that others
 * wait for are done by undici (docs/adr/0005): documents are written and the changes feed is read.
 * The only file that calls nano. Every fault of the engine is a MusterError: `conflict`, `refused`,
 * `store-unavailable`.
 */
import { StringDecoder } from "node:string_decoder";
import nano from "nano";
import { Agent, request } from "undici";
import { basicAuthorization } from "./basic-auth.ts";
import { isMusterError, MusterError } from "./errors.ts";
import type { DatabaseName } from "./names.ts";

/** What every stored document has. */
export interface Document {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
}

export type Stored<Doc extends Document> = Doc & { _rev: string };

/** The outcome of one document of a bulk write. */
export type BulkRow = { id: string; rev: string } | { id: string; error: string; reason: string };

export interface Attachment {
  contentType: string;
  bytes: Buffer;
}

/** One change of a database: the winning revision (`deleted` ones keep the fields they were deleted with). */
export interface Change {
  id: string;
  seq: string | number;
  deleted: boolean;
  doc: Document & Record<string, unknown>;
  /** All leaf revisions of the document, deleted ones too: more than one after sites changed it at once. */
  leaves?: string[];
}

/** A leaf with the hashes of its ancestors, itself first: the generation of the first is `start`. */
export type LeafDocument<Doc extends Document> = Stored<Doc> & { _revisions: { start: number; ids: string[] } };

/** A row of a listing; `doc` where documents were asked for, unless it was just deleted. */
export interface Listed<Doc extends Document> {
  id: string;
  doc: Stored<Doc> | undefined;
}

export interface PageOptions {
  /** Goes on after this id, whether or not a document has it. */
  after?: string;
  limit: number;
  withDocs?: boolean;
  conflicts?: boolean;
}

interface Request {
  method?: string;
  path?: string;
  query?: Record<string, unknown>;
  body?: unknown;
  contentType?: string;
  timeoutMs?: number;
  /** Whether it changes nothing, and may be asked again. Default: a GET. */
  isRead?: boolean;
}

/** A write of documents. */
interface Write {
  method: "PUT" | "POST";
  path: string;
  /** JSON */
  body: string;
  timeoutMs?: number;
}

/** Changes in their order, and the sequence to read on from. */
export interface ChangesPage {
  results: Change[];
  last_seq: string | number;
}

/** A change as `_changes` tells it. */
type ChangeRow = Omit<Change, "leaves"> & { changes: { rev: string }[] };

/** Long enough for a store that compacts, short enough that a caller learns of a dead one. */
const defaultTimeoutMs = 10_000;

/** How long a client should wait before it tries again when the store is away. */
const retryAfterMs = 2_000;

/**
 * A connection that nobody uses is let go after this, long before a store does it (the embedded one: `keepAliveMs` of
 * embedded/limits.ts; CouchDB never): what is asked on a connection that the other side is closing fails.
 */
const idleMs = 4_000;
/** A read that lost its connection is asked again at once, so often in all: each time it may meet one that was kept too long. */
const readAttemptsMax = 3;

/** A feed that has nothing to tell sends a line this often: under the idle time-outs of proxies. */
const heartbeatMs = 10_000;
/** A feed that is silent for longer has lost its store. */
const silenceMs = 25_000;

export class Store {
  readonly #server: nano.ServerScope;
  readonly #agent = new Agent({ keepAliveTimeout: idleMs, keepAliveMaxTimeout: idleMs });
  readonly #headers: Record<string, string>;
  /** The store's URL without credentials: safe for logs and answers. */
  readonly url: string;

  /** @param url of the CouchDB, credentials in it if it wants any. Opens nothing: connections are made per request. */
  constructor(url: string) {
    const bare = new URL(url);
    this.#headers = bare.username === "" ? {} : { authorization: basicAuthorization(bare) };
    bare.username = "";
    bare.password = "";
    this.url = bare.href.replace(/\/$/, "");
    // Its types name the class of an agent where its code takes an agent.
    const configuration: object = { url, parseUrl: false, agentOptions: this.#agent };
    this.#server = nano(configuration as nano.Configuration);
  }

  database<Doc extends Document>(name: DatabaseName | string): Database<Doc> {
    return new Database<Doc>(name, {
      request: (request) => this.request({ ...request, path: `${name}/${request.path ?? ""}` }),
      write: (write) => this.#write({ ...write, path: `${name}/${write.path}` }),
      lines: (path, signal) => this.#lines(`${name}/${path}`, signal),
    });
  }

  /** Resolves when the store answers. @throws MusterError `store-unavailable` */
  async ping(timeoutMs = 2_000): Promise<void> {
    await this.request({ path: "", timeoutMs });
  }

  /** One HTTP request, a read more often where the connection was lost. `path` is below the server's root and already encoded. */
  async request<Answer>({ isRead, ...request }: Request): Promise<Answer> {
    let timer: NodeJS.Timeout | undefined;
    const options = {
      method: request.method ?? "GET",
      path: request.path ?? "",
      qs: request.query ?? {},
      ...(request.body === undefined ? {} : bodyOf(request.body)),
      ...(request.contentType === undefined ? {} : { contentType: request.contentType }),
    };
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Late("no answer in time")), request.timeoutMs ?? defaultTimeoutMs);
    });
    const attempts = (isRead ?? options.method === "GET") ? readAttemptsMax : 1;
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          const answer = this.#server.request(options as nano.RequestOptions);
          return (await Promise.race([answer, late])) as Answer;
        } catch (error) {
          const isLost = !(error instanceof Late) && (error as { statusCode?: number }).statusCode === undefined;
          if (!isLost || attempt >= attempts) throw error;
        }
      }
    } catch (error) {
      throw storeError(error, options.method, `${this.url}/`, options.path);
    } finally {
      clearTimeout(timer);
    }
  }

  async #write<Answer>({ method, path, body: json, timeoutMs = defaultTimeoutMs }: Write): Promise<Answer> {
    const url = `${this.url}/${path}`;
    try {
      const { statusCode, body } = await request(url, {
        dispatcher: this.#agent,
        method,
        headers: { ...this.#headers, "content-type": "application/json" },
        body: json,
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
      });
      const text = await body.text();
      if (statusCode < 300) return JSON.parse(text) as Answer;
      // A document is written whether it is there or not: what is not there is its database.
      if (statusCode === 404) throw new Error(`${reasonIn(text)} The next start of a coordinator makes it`);
      throw Object.assign(new Error(reasonIn(text)), { statusCode });
    } catch (error) {
      throw storeError(error, method, `${this.url}/`, path);
    }
  }

  /**
   * The lines of an endless answer: the first batch, of none, when it begins, then those that came in together. Ends by
   * error when the connection is lost or silent for too long, or when `signal` aborts.
   */
  async *#lines(path: string, signal: AbortSignal): AsyncGenerator<string[]> {
    const url = `${this.url}/${path}`;
    try {
      const { statusCode, body } = await request(url, {
        dispatcher: this.#agent,
        headers: this.#headers,
        headersTimeout: silenceMs,
        bodyTimeout: silenceMs,
        signal,
      });
      if (statusCode !== 200) throw Object.assign(new Error(await body.text()), { statusCode });
      yield [];
      let rest = "";
      // Not the body's own setEncoding: undici cuts characters there that come in two chunks.
      const decoder = new StringDecoder("utf8");
      for await (const chunk of body as AsyncIterable<Buffer>) {
        const lines = (rest + decoder.write(chunk)).split("\n");
        rest = lines.pop() ?? "";
        yield lines.filter((line) => line !== "");
      }
      throw new Error("the answer ended");
    } catch (error) {
      throw storeError(error, "GET", `${this.url}/`, path);
    }
  }
}

/** The time that a caller gave ran out. */
class Late extends Error {}

/** What CouchDB says why it refused; what another server says as it is. */
function reasonIn(text: string): string {
  try {
    return (JSON.parse(text) as { reason: string }).reason;
  } catch {
    return text;
  }
}

/** As JSON, made here: nano gives JSON.stringify a replacer, which takes several times as long. */
function bodyOf(body: unknown): { body: unknown; dontStringify?: true } {
  return Buffer.isBuffer(body) ? { body } : { body: JSON.stringify(body), dontStringify: true };
}

/** What a database needs of its server; paths are below the database. */
interface Access {
  request<Answer>(request: Request): Promise<Answer>;
  write<Answer>(write: Write): Promise<Answer>;
  lines(path: string, signal: AbortSignal): AsyncGenerator<string[]>;
}

export class Database<Doc extends Document> {
  readonly name: string;
  readonly #request: Access["request"];
  readonly #write: Access["write"];
  readonly #lines: Access["lines"];

  constructor(name: string, { request, write, lines }: Access) {
    this.name = name;
    this.#request = request;
    this.#write = write;
    this.#lines = lines;
  }

  /** @returns the winning revision, or undefined where there is none or it is deleted. */
  async get<Some extends Doc = Doc>(
    id: string,
    { rev, ...options }: { rev?: string; timeoutMs?: number } = {},
  ): Promise<Stored<Some> | undefined> {
    try {
      const query = rev === undefined ? {} : { rev };
      return await this.#request<Stored<Some>>({ path: documentPath(id), query, ...options });
    } catch (error) {
      if (error instanceof MusterError && error.code === "not-found") return undefined;
      throw error;
    }
  }

  /** Those of these documents that are there, in one request. */
  async getMany<Some extends Doc = Doc>(ids: string[]): Promise<Stored<Some>[]> {
    if (ids.length === 0) return [];
    const answer = await this.#request<{ rows: { doc?: Stored<Some> | null }[] }>({
      method: "POST",
      path: "_all_docs",
      query: { include_docs: true },
      body: { keys: ids },
      timeoutMs: 30_000,
      isRead: true,
    });
    return answer.rows.flatMap(({ doc }) => (doc === undefined || doc === null ? [] : [doc]));
  }

  /** Every leaf revision of a document, the deleted ones too: what a conflict is made of. */
  async leaves(id: string): Promise<Stored<Doc>[]> {
    return this.#openRevisions<Stored<Doc>>(id, {});
  }

  /** The same, each with its ancestry. */
  async branches(id: string, options: { timeoutMs?: number } = {}): Promise<LeafDocument<Doc>[]> {
    return this.#openRevisions<LeafDocument<Doc>>(id, { revs: true }, options);
  }

  async #openRevisions<Leaf>(
    id: string,
    query: Record<string, unknown>,
    options: { timeoutMs?: number } = {},
  ): Promise<Leaf[]> {
    try {
      const rows = await this.#request<{ ok?: Leaf }[]>({
        path: documentPath(id),
        query: { open_revs: "all", ...query },
        ...options,
      });
      return rows.flatMap((row) => (row.ok === undefined ? [] : [row.ok]));
    } catch (error) {
      if (error instanceof MusterError && error.code === "not-found") return [];
      throw error;
    }
  }

  /**
   * Writes a document over the revision it names (`_rev`), or anew.
   * @returns the new revision.
   * @throws MusterError `conflict` when the stored revision is another one: nothing was written.
   */
  async put(doc: Doc): Promise<string> {
    const write = { method: "PUT", path: documentPath(doc._id), body: JSON.stringify(doc) } as const;
    return (await this.#write<{ rev: string }>(write)).rev;
  }

  /** Writes many at once; each row says its own outcome. `newEdits: false` stores revisions as given (replication). */
  async bulk(
    docs: Doc[],
    { newEdits = true, ...options }: { newEdits?: boolean; timeoutMs?: number } = {},
  ): Promise<BulkRow[]> {
    return this.bulkJson(
      docs.map((doc) => JSON.stringify(doc)),
      { newEdits, ...options },
    );
  }

  /** The same, of documents that are JSON already. */
  async bulkJson(
    docs: string[],
    { newEdits = true, timeoutMs = 30_000 }: { newEdits?: boolean; timeoutMs?: number } = {},
  ): Promise<BulkRow[]> {
    if (docs.length === 0) return [];
    const body = `{"docs":[${docs.join(",")}]${newEdits ? "" : ',"new_edits":false'}}`;
    return this.#write<BulkRow[]>({ method: "POST", path: "_bulk_docs", body, timeoutMs });
  }

  /** All documents whose id starts with `prefix`, in id order: at least those that are there from beginning to end. */
  async list<Some extends Doc = Doc>(prefix: string, options: { conflicts?: boolean } = {}): Promise<Stored<Some>[]> {
    const found: Stored<Some>[] = [];
    const pages = this.pages<Some>(prefix, { limit: pageSize, withDocs: true, ...options });
    for await (const page of pages) for (const { doc } of page) if (doc !== undefined) found.push(doc);
    return found;
  }

  /** The ids that start with `prefix`, in order: at least those that are there from beginning to end. */
  async ids(prefix: string, behind: Pick<PageOptions, "after"> = {}): Promise<string[]> {
    const found: string[] = [];
    const pages = this.pages(prefix, { ...behind, limit: pageSize });
    for await (const page of pages) for (const { id } of page) found.push(id);
    return found;
  }

  /** As `list` or `ids`, page by page: more of them than memory should hold at once. */
  async *pages<Some extends Doc = Doc>(prefix: string, options: PageOptions): AsyncGenerator<Listed<Some>[]> {
    for (let { after } = options; ; ) {
      const page = await this.page<Some>(prefix, { ...options, ...(after === undefined ? {} : { after }) });
      if (page.length > 0) yield page;
      if (page.length < options.limit) return;
      after = page.at(-1)?.id;
    }
  }

  /** The first `limit` of the documents whose id starts with `prefix` and sorts after `after`. */
  async page<Some extends Doc = Doc>(
    prefix: string,
    { after, limit, withDocs = false, conflicts = false }: PageOptions,
  ): Promise<Listed<Some>[]> {
    const { rows } = await this.#request<{ rows: { id: string; doc?: Stored<Some> | null }[] }>({
      path: "_all_docs",
      query: {
        startkey: after ?? prefix,
        endkey: `${prefix}\ufff0`,
        // Nobody can ask for what comes after an id, and to skip one row would skip another where that id is deleted.
        limit: after === undefined ? limit : limit + 1,
        ...(withDocs ? { include_docs: true } : {}),
        ...(conflicts ? { conflicts: true } : {}),
      },
      timeoutMs: 60_000,
    });
    return rows.flatMap(({ id, doc }) => (id === after ? [] : [{ id, doc: doc ?? undefined }])).slice(0, limit);
  }

  /** The changes after `since`, at most `limit`. */
  async changes(since: string | number, { limit = 1000 }: { limit?: number } = {}): Promise<ChangesPage> {
    const answer = await this.#request<{ results: ChangeRow[]; last_seq: string | number } | string>({
      path: "_changes",
      query: { since, limit, ...withDocuments },
    });
    // nano gives "" for a body that was cut off in the middle.
    if (typeof answer === "string") throw unavailable(`the changes feed of ${this.name} was cut`);
    return { last_seq: answer.last_seq, results: answer.results.map(changeOf) };
  }

  /**
   * The changes after `since` as they come, over one connection: a first page of none when the store has answered, then
   * what came in together. Ends only by an error, or when `signal` aborts.
   * @throws MusterError `store-unavailable`
   */
  async *follow(since: string | number, signal: AbortSignal): AsyncGenerator<ChangesPage> {
    const query = { since, feed: "continuous", heartbeat: heartbeatMs, ...withDocuments };
    let last = since;
    try {
      for await (const lines of this.#lines(`_changes?${new URLSearchParams(query as never)}`, signal)) {
        const results = lines.map((line) => changeOf(JSON.parse(line) as ChangeRow));
        last = results.at(-1)?.seq ?? last;
        yield { last_seq: last, results };
      }
    } catch (error) {
      if (isMusterError(error)) throw error;
      throw unavailable(`the changes feed of ${this.name}: ${(error as Error).message}`, error);
    }
  }

  async info(): Promise<{ doc_count: number; update_seq: string | number }> {
    return this.#request({ path: "" });
  }

  async putAttachment(id: string, rev: string, name: string, attachment: Attachment): Promise<string> {
    const answer = await this.#request<{ rev: string }>({
      method: "PUT",
      path: `${documentPath(id)}/${encodeURIComponent(name)}`,
      query: { rev },
      body: attachment.bytes,
      contentType: attachment.contentType,
    });
    return answer.rev;
  }

  async getAttachment(id: string, name: string): Promise<Buffer | undefined> {
    try {
      const path = `${documentPath(id)}/${encodeURIComponent(name)}`;
      const answer = await this.#request<Buffer | string | object>({ path });
      return Buffer.isBuffer(answer)
        ? answer
        : Buffer.from(typeof answer === "string" ? answer : JSON.stringify(answer));
    } catch (error) {
      if (error instanceof MusterError && error.code === "not-found") return undefined;
      throw error;
    }
  }

  async deleteAttachment(id: string, rev: string, name: string): Promise<string> {
    const path = `${documentPath(id)}/${encodeURIComponent(name)}`;
    return (await this.#request<{ rev: string }>({ method: "DELETE", path, query: { rev } })).rev;
  }

  /** A view's rows. */
  async view<Value = unknown>(
    design: string,
    view: string,
    query: Record<string, unknown> = {},
  ): Promise<{ id: string; key: unknown; value: Value; doc?: Stored<Doc> }[]> {
    const path = `_design/${design}/_view/${view}`;
    return (
      await this.#request<{ rows: { id: string; key: unknown; value: Value; doc?: Stored<Doc> }[] }>({ path, query })
    ).rows;
  }
}

const pageSize = 1000;

const withDocuments = { include_docs: true, style: "all_docs" };

/** @throws Error for the line by which a server says that it ends the feed, or why. */
function changeOf({ changes, ...row }: ChangeRow): Change {
  if (changes === undefined) throw new Error(`the changes feed ended: ${JSON.stringify(row).slice(0, 200)}`);
  return { ...row, deleted: row.deleted === true, leaves: changes.map(({ rev }) => rev) };
}

/** CouchDB wants the slash of `_design/…` and `_local/…` as it is: it redirects an encoded one. */
function documentPath(id: string): string {
  const [, prefix = "", name = id] = /^(_design\/|_local\/)(.*)$/s.exec(id) ?? [];
  return prefix + encodeURIComponent(name);
}

function unavailable(what: string, cause?: unknown): MusterError {
  return new MusterError("store-unavailable", `${what}; nothing is known to be written, try again`, {
    retryAfterMs,
    cause,
  });
}

/** Where the store stands is said only where it cannot be reached: what it refuses is told to clients. */
function storeError(error: unknown, method: string, server: string, path: string): MusterError {
  const { statusCode, reason, message, code } = error as Partial<Record<"reason" | "message" | "code", string>> & {
    statusCode?: number;
  };
  // Of a name with several addresses the error that none could be reached has no message.
  const said = reason ?? (message || code || String(error));
  const what = `${method} ${path}`;
  const reached = `${method} ${server}${path}`;
  switch (statusCode) {
    case 404:
      return new MusterError("not-found", `${what}: ${said}`, { cause: error });
    case 409:
      return new MusterError("conflict", `${what}: the stored revision is another one; read it again and retry`, {
        cause: error,
      });
    case 412:
      return new MusterError("precondition-failed", `${what}: ${said}`, { cause: error });
    case 413:
      return new MusterError("too-large", `${what}: ${said}`, { cause: error });
    case 401:
      return unavailable(`${reached}: the store refuses the credentials (${said})`, error);
    case 400:
    case 403:
      return new MusterError("refused", `${what}: ${said}`, { cause: error });
    default:
      return unavailable(`${reached}: ${said}`, error);
  }
}
