/** The station's coordinator, a process of its own that ends with this one. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdir, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MusterError } from "../../../config-db/errors.ts";
import type { Terminal } from "../terminal.ts";
import type { Station } from "./record.ts";

export interface RunningCoordinator {
  /** Of its bridge. */
  url: string;
  /** Rejects when it ends by itself. */
  failed: Promise<never>;
  /** Drains and ends it. May be called again. */
  close(): Promise<void>;
}

const root = fileURLToPath(new URL("../../../", import.meta.url));
/** The coordinator gives itself 15 s to drain. */
const killAfterMs = 20_000;

/** @throws MusterError `refused` with what it said when it cannot start: a taken port, a broken data directory. */
export async function startCoordinator(
  station: Station,
  dataDir: string,
  { env, signal }: Pick<Terminal, "env" | "signal">,
): Promise<RunningCoordinator> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const logFile = join(dataDir, "station.log");
  const log = await open(logFile, "a", 0o600);
  try {
    const { size: logStart } = await log.stat();
    const child = launch(station, dataDir, env, log.fd);
    const close = () => end(child);
    const failed = failureOf(child, () => lastWords(logFile, logStart));
    // Whoever awaits it hears of it; an end that is meant is nobody's failure.
    failed.catch(() => {});
    try {
      const [{ url }] = (await Promise.race([once(child, "message", { signal }), failed])) as [{ url: string }];
      return { url, failed, close };
    } catch (error) {
      await close();
      throw error;
    }
  } finally {
    // The child has its own copy.
    await log.close();
  }
}

function launch(
  { site, httpPort, couchdbPort, peers }: Station,
  dataDir: string,
  env: Terminal["env"],
  logFd: number,
): ChildProcess {
  const flags = { site, "data-dir": dataDir, "http-port": httpPort, "couchdb-port": couchdbPort };
  return fork(
    join(root, "coordinator", "main.ts"),
    Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]),
    {
      // tsx is found from here.
      cwd: root,
      execArgv: ["--import", "tsx"],
      // In the environment, which others on this machine cannot read: the URLs may hold credentials.
      env: { ...env, MUSTER_PEERS: peers.map(({ name, couchdbUrl }) => `${name}=${couchdbUrl}`).join(";") },
      stdio: ["ignore", logFd, logFd, "ipc"],
    },
  );
}

async function failureOf(child: ChildProcess, words: () => Promise<string>): Promise<never> {
  await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", resolve);
  });
  throw new MusterError("refused", `the station's coordinator ended:\n${await words()}`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), killAfterMs);
  await gone;
  clearTimeout(timer);
}

/** What this run wrote last that is no log record: errors are told as plain lines. */
async function lastWords(logFile: string, from: number): Promise<string> {
  const text = (await readFile(logFile)).subarray(from).toString("utf8").trim();
  const lines = text.split("\n");
  const plain = lines.filter((line) => !line.startsWith("{"));
  return [...(plain.length > 0 ? plain : lines).slice(-12), `Its log is ${logFile}`].join("\n");
}
