/** A change of configuration on its way: to a hundred watchers, beside etcd's watches; to a thousand components and back. */
import { Agent, request } from "undici";
import { startCoordinator } from "../../support/coordinator.ts";
import { startEtcd } from "../etcd.ts";
import { type Contender, type Figures, quantile, type Row } from "../harness.ts";

const watchersCount = 100;
const changesPerRound = 20;
/** Told to the same watchers before anything is measured: the first hundreds of changes find code that is not compiled yet. */
const changesToWarmUp = 400;
const fleetCount = 1_000;

/** Counts who has seen which number, and tells when all have. */
class Seen {
  readonly #expected: number;
  #number = -1;
  #left = 0;
  #done: () => void = () => {};

  constructor(expected: number) {
    this.#expected = expected;
  }

  /** Resolves when every watcher has told of `number`. */
  async all(number: number): Promise<void> {
    this.#number = number;
    this.#left = this.#expected;
    await new Promise<void>((resolve) => {
      this.#done = resolve;
    });
  }

  tell(number: number): void {
    if (number !== this.#number) return;
    this.#left -= 1;
    if (this.#left === 0) this.#done();
  }
}

/** One write over a kept connection, without what fetch costs; the same for both. */
async function write(url: string, method: "PUT" | "POST", content: unknown, dispatcher: Agent): Promise<void> {
  const headers = { "content-type": "application/json" };
  const { statusCode, body } = await request(url, { method, headers, body: JSON.stringify(content), dispatcher });
  const text = await body.text();
  if (statusCode >= 300) throw new Error(`${method} ${url}: ${statusCode} ${text}`);
}

/**
 * Streams `url` and gives each line that matches; resolves when the first bytes have come. On undici's lowest layer: a hundred
 * readers in one process are to take little of what they measure.
 */
function follow(
  url: string,
  options: { method?: "GET" | "POST"; body?: string; headers?: Record<string, string> },
  dispatcher: Agent,
  line: (text: string) => void,
): Promise<void> {
  const { origin, pathname } = new URL(url);
  return new Promise((resolve, reject) => {
    let rest = "";
    dispatcher.dispatch(
      { origin, path: pathname, method: "GET", ...options },
      {
        onRequestStart: () => {},
        onResponseData: (_controller, bytes) => {
          const lines = (rest + bytes.toString()).split("\n");
          rest = lines.pop() ?? "";
          for (const text of lines) line(text);
          resolve();
        },
        onResponseError: (_controller, error) => reject(error),
      },
    );
  });
}

/** The time from a write's start until the last watcher has it, of several changes one after the other. */
async function changes(change: (number: number) => Promise<void>, seen: Seen): Promise<Figures> {
  const lastMs: number[] = [];
  for (let n = 0; n < changesPerRound; n++) {
    numbers += 1;
    const startMs = performance.now();
    const all = seen.all(numbers).then(() => lastMs.push(performance.now() - startMs));
    await Promise.all([change(numbers), all]);
  }
  return { lastP50Ms: quantile(lastMs, 0.5), lastP99Ms: quantile(lastMs, 0.99) };
}
let numbers = 0;

const streaming = () => new Agent({ connections: null, pipelining: 1, bodyTimeout: 0, headersTimeout: 0 });

async function musterWatchers(): Promise<{ contender: Contender; close(): Promise<void> }> {
  const couchdbUrl = process.env.MUSTER_TEST_COUCHDB_URL;
  const coordinator = await startCoordinator(couchdbUrl === undefined ? {} : { couchdbUrl });
  const dispatcher = streaming();
  const seen = new Seen(watchersCount);
  const layer = `${coordinator.url}/v1/config/layers/type:watched`;
  const change = (number: number) => write(layer, "PUT", { settings: { number } }, dispatcher);
  await change(0);
  for (let n = 0; n < watchersCount; n++) {
    await coordinator.call("PUT", `/v1/components/watcher-${n}`, { type: "watched", instance: "b", ttlMs: 3_600_000 });
    const url = `${coordinator.url}/v1/components/watcher-${n}/config`;
    await follow(url, { headers: { accept: "text/event-stream" } }, dispatcher, (text) => {
      if (text.startsWith("data: ")) seen.tell(JSON.parse(text.slice(6)).settings.number);
    });
  }
  // Of another layer, since a layer's write gets slower with its revisions: 5 ms by the thousandth.
  for (let n = 0; n < changesToWarmUp; n++) {
    await write(`${coordinator.url}/v1/config/layers/platform`, "PUT", { settings: { warm: n } }, dispatcher);
  }
  return {
    contender: { name: "Muster", measure: () => changes(change, seen) },
    close: async () => {
      await dispatcher.destroy();
      await coordinator.close();
    },
  };
}

async function etcdWatchers(): Promise<{ contender: Contender; close(): Promise<void> } | undefined> {
  const etcd = await startEtcd();
  if (etcd === undefined) return undefined;
  const dispatcher = streaming();
  const seen = new Seen(watchersCount);
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  const watch = JSON.stringify({ create_request: { key: base64("watched") } });
  for (let n = 0; n < watchersCount; n++) {
    await follow(`${etcd.url}/v3/watch`, { method: "POST", body: watch }, dispatcher, (text) => {
      for (const { kv } of JSON.parse(text).result?.events ?? []) {
        seen.tell(JSON.parse(Buffer.from(kv.value, "base64").toString()).number);
      }
    });
  }
  const change = (number: number) => {
    const pair = { key: base64("watched"), value: base64(JSON.stringify({ number })) };
    return write(`${etcd.url}/v3/kv/put`, "POST", pair, dispatcher);
  };
  for (let n = 0; n < changesToWarmUp; n++) await change(-1 - n);
  return {
    contender: { name: "etcd", measure: () => changes(change, seen) },
    close: async () => {
      await dispatcher.destroy();
      await etcd.close();
    },
  };
}

export const rows: Row[] = [
  {
    work: `a change of a layer until the last of ${watchersCount} watchers has it: Muster (SSE) vs etcd (watch over its HTTP gateway)`,
    figure: "lastP50Ms",
    better: "lower",
    targetRatio: 1,
    targetValue: 8,
    async setUp() {
      const muster = await musterWatchers();
      const etcd = await etcdWatchers();
      return {
        contenders: [muster.contender, ...(etcd === undefined ? [] : [etcd.contender])],
        tearDown: async () => {
          await muster.close();
          await etcd?.close();
        },
      };
    },
  },
  {
    work: `a change of a type's layer until the last of ${fleetCount} components has reported it as applied`,
    figure: "lastMs",
    better: "lower",
    targetValue: 1_000,
    rounds: 3,
    async setUp() {
      const couchdbUrl = process.env.MUSTER_TEST_COUCHDB_URL;
      const coordinator = await startCoordinator(couchdbUrl === undefined ? {} : { couchdbUrl });
      const dispatcher = streaming();
      const reports = new Agent({ connections: 64, pipelining: 1 });
      const seen = new Seen(fleetCount);
      const report = async (id: string, { etag, number }: { etag: string; number: number }) => {
        const url = `${coordinator.url}/v1/components/${id}/config/status`;
        const headers = { "content-type": "application/json" };
        const body = JSON.stringify({ etag, status: "applied" });
        const answer = await request(url, { method: "PUT", headers, body, dispatcher: reports });
        await answer.body.dump();
        if (answer.statusCode === 204) seen.tell(number);
      };
      const ids = Array.from({ length: fleetCount }, (_, n) => `fleet-${n}`);
      const join = async (id: string) => {
        await coordinator.call("PUT", `/v1/components/${id}`, { type: "fleet", instance: "b", ttlMs: 3_600_000 });
        const url = `${coordinator.url}/v1/components/${id}/config`;
        await follow(url, { headers: { accept: "text/event-stream" } }, dispatcher, (text) => {
          if (!text.startsWith("data: ")) return;
          const { etag, settings } = JSON.parse(text.slice(6));
          void report(id, { etag, number: settings.number });
        });
      };
      for (let from = 0; from < fleetCount; from += 50) await Promise.all(ids.slice(from, from + 50).map(join));
      const measure = async (): Promise<Figures> => {
        numbers += 1;
        const startMs = performance.now();
        const settings = { number: numbers };
        await Promise.all([seen.all(numbers), coordinator.call("PUT", "/v1/config/layers/type:fleet", { settings })]);
        const lastMs = performance.now() - startMs;
        const { body } = await coordinator.call("GET", "/v1/config/status?type=fleet");
        if (body.applied !== fleetCount) throw new Error(`only ${body.applied} of ${body.total} applied it`);
        return { lastMs };
      };
      return {
        contenders: [{ name: "Muster", measure }],
        tearDown: async () => {
          await dispatcher.destroy();
          await reports.destroy();
          await coordinator.close();
        },
      };
    },
  },
];
