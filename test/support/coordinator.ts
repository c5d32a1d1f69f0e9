/** A coordinator in a process of its own, on free ports, with data that goes when it is closed. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type SpawnedProcess, spawnEntry } from "./processes.ts";

export interface CoordinatorOptions {
  site?: string;
  amqpUrl?: string;
  /** A store that others use too; absent: an embedded one of its own. */
  couchdbUrl?: string;
  /** Kept by `close()`; absent: a temporary one that is deleted. */
  dataDir?: string;
  /** As in production where a broker is killed; absent: commands may be sent at once. */
  queueSettleMs?: number;
  /** More flags, as on the command line. */
  args?: string[];
}

export interface RunningCoordinator {
  url: string;
  dataDir: string;
  process: SpawnedProcess;
  /** Asks its bridge. A `body` that is no string is sent as JSON. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<CallAnswer>;
  close(): Promise<void>;
}

export interface CallAnswer {
  status: number;
  headers: Headers;
  /** The parsed JSON, or the text of any other media type. */
  // biome-ignore lint/suspicious/noExplicitAny: tests say what they expect by asserting it.
  body: any;
}

/** Resolves when `/readyz` would say yes. */
export async function startCoordinator(options: CoordinatorOptions = {}): Promise<RunningCoordinator> {
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), "muster-coordinator-")));
  const flags = {
    "http-port": "0",
    "couchdb-port": "0",
    "data-dir": dataDir,
    site: options.site,
    "amqp-url": options.amqpUrl,
    "couchdb-url": options.couchdbUrl,
    "queue-settle-ms": String(options.queueSettleMs ?? 0),
  };
  const args = Object.entries(flags).flatMap(([flag, value]) => (value === undefined ? [] : [`--${flag}`, value]));
  const environment = Object.keys(process.env).filter((name) => name.startsWith("MUSTER_"));
  const started = await spawnEntry("coordinator/main.ts", {
    args: [...args, ...(options.args ?? [])],
    env: Object.fromEntries(environment.map((name) => [name, undefined])),
  });
  const { url } = JSON.parse(await started.line(/"the bridge serves"/)) as { url: string };
  return {
    url,
    dataDir,
    process: started,
    call: (method, path, body, headers = {}) => call(url + path, method, body, headers),
    close: async () => {
      await started.close();
      if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true });
    },
  };
}

async function call(url: string, method: string, body: unknown, headers: Record<string, string>): Promise<CallAnswer> {
  const json = body === undefined ? {} : { "content-type": "application/json" };
  const answer = await fetch(url, {
    method,
    headers: { ...json, ...headers },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await answer.text();
  const isJson = (answer.headers.get("content-type") ?? "").includes("json") && text !== "";
  return { status: answer.status, headers: answer.headers, body: isJson ? JSON.parse(text) : text };
}
