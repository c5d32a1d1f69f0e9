/**
 * The site's store: the CouchDB that the settings name, or the embedded one as a child process.
 * A child, not a part of this process: PouchDB's work on the other core, and a store that outlives no coordinator
 * (it ends when its parent does) but whose death does not end one.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../config-db/errors.ts";
import { databases } from "../config-db/names.ts";
import { Store } from "../config-db/store.ts";
import type { Settings } from "./settings.ts";

export interface SiteStore {
  store: Store;
  close(): Promise<void>;
}

/** Between two starts of an embedded database that died. */
const restartMs = 500;
/** A site's beat alone makes 720 revisions an hour, of half a kilobyte each. */
const compactEveryMs = 3_600_000;
/** Between two tries to reach a CouchDB that is not up yet: in a compose file everything starts at once. */
const retryMs = 1_000;

/** Asks nothing of a CouchDB yet. @throws MusterError when an embedded one cannot start (its port is taken …). */
export async function openSiteStore(settings: Settings, logger: Logger): Promise<SiteStore> {
  if (settings.couchdbUrl === undefined) return startEmbeddedChild(settings, logger);
  return { store: new Store(settings.couchdbUrl), close: async () => {} };
}

/**
 * Does a part of the start that needs the store: again every second while that does not answer, whether it is not up yet
 * or was lost in the middle.
 * @param part may be done again after it has failed by `store-unavailable`.
 * @throws what waiting does not mend: credentials that the store refuses, and whatever else `part` throws; AbortError.
 */
export async function waitForStore<T>(
  { url }: Store,
  part: () => Promise<T>,
  { logger, signal }: { logger: Logger; signal: AbortSignal },
): Promise<T> {
  for (;;) {
    try {
      return await part();
    } catch (error) {
      if (!isMusterError(error, "store-unavailable") || isRefusal(error)) throw error;
      logger.warn({ store: url, reason: error.message }, "the store does not answer yet; trying again");
      await delay(retryMs, undefined, { signal });
    }
  }
}

function isRefusal({ cause }: Error): boolean {
  return (cause as { statusCode?: number } | undefined)?.statusCode === 401;
}

/** CouchDB has a daemon for this; the embedded store forgets old revisions when it is told to. */
async function compact(store: Store): Promise<void> {
  for (const name of Object.values(databases))
    await store.request({ method: "POST", path: `${name}/_compact`, body: {} });
}

async function startEmbeddedChild(settings: Settings, logger: Logger): Promise<SiteStore> {
  let closing = false;
  let child: ChildProcess;

  const launch = async (port: number): Promise<string> => {
    const directory = join(settings.dataDir, "couchdb");
    const entry = fileURLToPath(new URL("../config-db/embedded/main.ts", import.meta.url));
    const args = ["--host", settings.couchdbHost, "--port", String(port), "--directory", directory];
    child = fork(entry, args, {
      execArgv: ["--import", "tsx"],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      // Out of the terminal's reach: a Ctrl-C must not end the store before the coordinator has drained into it.
      detached: true,
    });
    let said = "";
    child.stderr?.on("data", (bytes: Buffer) => {
      said = (said + bytes.toString()).slice(-4_000);
    });
    const ready = once(child, "message") as Promise<[{ url?: string; error?: string }]>;
    const ended = once(child, "exit").then(() => undefined);
    const message = await Promise.race([ready, ended]);
    const told = message?.[0];
    if (told?.url === undefined) {
      throw new MusterError(
        "store-unavailable",
        `the embedded config database did not start: ${told?.error ?? said.trim()}`,
      );
    }
    child.once("exit", (code, signalName) => {
      if (closing) return;
      logger.error(
        { code, signal: signalName, said: said.trim() },
        "the embedded config database died; starting it again",
      );
      void relaunch(Number(new URL(told.url as string).port));
    });
    return told.url;
  };
  /** On the same port, so that whoever holds the URL finds it again. */
  const relaunch = async (port: number): Promise<void> => {
    while (!closing) {
      await delay(restartMs);
      try {
        await launch(port);
        return;
      } catch (error) {
        logger.error(
          { reason: (error as Error).message },
          "the embedded config database does not come back; trying again",
        );
      }
    }
  };

  const store = new Store(await launch(settings.couchdbPort));
  const compaction = setInterval(() => {
    compact(store).catch((error: Error) => logger.warn({ reason: error.message }, "compaction has to wait"));
  }, compactEveryMs);
  return {
    store,
    close: async () => {
      closing = true;
      clearInterval(compaction);
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      const force = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await ended;
      clearTimeout(force);
    },
  };
}
