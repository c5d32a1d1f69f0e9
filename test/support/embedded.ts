import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { basicAuthorization } from "../../config-db/basic-auth.ts";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";

export interface Answer {
  status: number;
  headers: Headers;
  /** The body's JSON; its text where it is none. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of many shapes.
  body: any;
}

export interface AskOptions {
  /** Sent as JSON, unless it is text or bytes. */
  body?: unknown;
  headers?: Record<string, string>;
}

/** A store under test, while its tests run. */
export interface TestStore {
  /** True for a real CouchDB, false for the embedded one. */
  readonly isCouchDb: boolean;
  /** With the credentials in it, where there are any. */
  readonly url: string;
  /** An empty database with a name of its own, deleted after the test. */
  database(): Promise<string>;
  ask(method: string, path: string, options?: AskOptions): Promise<Answer>;
}

/**
 * The same facts about every kind of store: the embedded one in memory and on disk, and the CouchDB that
 * MUSTER_TEST_COUCHDB_URL names, when it does.
 */
export function describeStores(title: string, define: (store: TestStore) => void): void {
  const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;
  const starts: Record<string, () => Promise<Embedded>> = { "in memory": startInMemory, "on disk": startOnDisk };
  if (couchUrl !== undefined) starts["on CouchDB"] = async () => ({ url: couchUrl, close: async () => {} });
  for (const [kind, start] of Object.entries(starts)) {
    describe(`${title} ${kind}`, () => define(useStore(start, kind === "on CouchDB")));
  }
}

const startInMemory = () => startEmbedded();

async function startOnDisk(): Promise<Embedded> {
  const directory = await mkdtemp(join(tmpdir(), "muster-test-store-"));
  const embedded = await startEmbedded({ directory });
  return {
    url: embedded.url,
    close: async () => {
      await embedded.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Gives the enclosing `describe` a store: started before its tests, closed after them. */
export function useStore(start: () => Promise<Embedded> = startInMemory, isCouchDb = false): TestStore {
  let running: Embedded | undefined;
  const made: string[] = [];
  const current = () => {
    if (running === undefined) throw new Error("the store exists only inside hooks and tests: use it there");
    return running;
  };
  before(async () => {
    running = await start();
  });
  afterEach(async () => {
    for (const name of made.splice(0)) await ask(current().url, "DELETE", `/${name}`);
  });
  after(async () => await running?.close());
  return {
    isCouchDb,
    get url() {
      return current().url.replace(/\/$/, "");
    },
    database: async () => {
      const name = `test-${randomBytes(6).toString("hex")}`;
      const { status } = await ask(current().url, "PUT", `/${name}`);
      if (status !== 201 && status !== 202) throw new Error(`database ${name} was not made: ${status}`);
      made.push(name);
      return name;
    },
    ask: (method, path, options) => ask(current().url, method, path, options),
  };
}

/** One HTTP request. JSON is asked for unless `accept` says otherwise. */
export async function ask(url: string, method: string, path: string, options: AskOptions = {}): Promise<Answer> {
  // fetch refuses credentials in a URL.
  const base = new URL(url);
  const { body } = options;
  const isRaw = typeof body === "string" || body instanceof Uint8Array;
  const response = await fetch(`${base.origin}${path}`, {
    method,
    headers: {
      accept: "application/json",
      ...(body !== undefined || method === "POST" ? { "content-type": "application/json" } : {}),
      ...(base.username !== "" && { authorization: basicAuthorization(base) }),
      ...options.headers,
    },
    ...(body !== undefined && { body: isRaw ? (body as string) : JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: parsed(text) };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
