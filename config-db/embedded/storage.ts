/** Where databases are kept: a directory of LevelDB stores, or memory. */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, realpath, rename, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import LevelDOWN from "leveldown";
import PouchDB from "pouchdb";
import memoryAdapter from "pouchdb-adapter-memory";
import findPlugin from "pouchdb-find";
import { CachedLevelDB } from "./cached-leveldb.ts";
import { limits } from "./limits.ts";

PouchDB.plugin(memoryAdapter);
PouchDB.plugin(findPlugin);

/** An open database. */
export interface Opened extends PouchDB.Database {
  /** What was written lately under a key of its LevelDB; absent in memory. */
  lately?(key: string): string | undefined;
}

export interface Storage {
  /** Names this store; made once, kept with it. */
  readonly uuid: string;
  /** False where what is stored ends with the process. */
  readonly isLasting: boolean;
  list(): Promise<string[]>;
  /** Whether a database that is closed can be opened again: LevelDB writes when it opens. */
  hasRoom(): Promise<boolean>;
  /** Opens a database, which makes it where there is none. Resolves when it can be used. */
  open(name: string, revisionLimit: number): Promise<Opened>;
  /** Closes a database and its views. */
  shut(pouch: PouchDB.Database): Promise<void>;
  /** Closes a database and removes it with its views. After a crash in the middle it is either whole or gone. */
  discard(name: string, pouch: PouchDB.Database): Promise<void>;
  close(): Promise<void>;
}

/** A directory that another process uses. */
export class DirectoryInUse extends Error {
  override readonly name = "DirectoryInUse";
}

/** Databases' folders start with a letter or `_`: these cannot be one. */
const serverFolder = ".server";
const discardedPrefix = ".discarded-";

/** PouchDB shares open stores inside a process, so that LevelDB's own lock only keeps other processes out. */
const directoriesOfThisProcess = new Set<string>();

/**
 * Databases under `directory`, which is made where there is none. LevelDB's lock on one small store says who owns it:
 * the kernel frees it when the owner dies, however it dies.
 * @throws DirectoryInUse when another process still holds it after the limit.
 */
export async function openDirectory(directory: string): Promise<Storage> {
  await mkdir(directory, { recursive: true });
  const root = await realpath(directory);
  const server = await lock(root);
  await dropDiscarded(root);
  let isClosed = false;
  return {
    uuid: await server.id(),
    isLasting: true,
    list: async () => (await readdir(root)).filter((name) => !name.startsWith(".")).map(decodeURIComponent),
    hasRoom: async () => {
      const { bavail, bsize } = await statfs(root);
      return bavail * bsize >= limits.reopenBytes;
    },
    open: async (name, revisionLimit) => {
      const folder = join(root, folderOf(name));
      await mkdir(folder, { recursive: true });
      let level: CachedLevelDB | undefined;
      // PouchDB calls it without `new`, when it opens the database, and never for one that this process has open.
      const cached = (location: string) => {
        level = new CachedLevelDB(location);
        return level;
      };
      const db = Object.assign(cached, { destroy: LevelDOWN.destroy });
      const pouch = new PouchDB(join(folder, "documents"), { adapter: "leveldb", db, revs_limit: revisionLimit });
      return opened(Object.assign(pouch, { lately: (key: string) => level?.lately(key) }));
    },
    shut: shutWithViews,
    discard: async (name, pouch) => {
      await shutWithViews(pouch);
      // One rename decides: what it moved away can be removed at leisure, at the next start if need be.
      const away = join(root, `${discardedPrefix}${randomUUID()}`);
      await rename(join(root, folderOf(name)), away);
      await rm(away, { recursive: true, force: true });
    },
    close: async () => {
      if (isClosed) return;
      isClosed = true;
      await server.close();
      directoriesOfThisProcess.delete(root);
    },
  };
}

/** Databases in memory, under names of their own: two stores in one process share nothing. */
export function openMemory(): Storage {
  const uuid = randomUUID().replaceAll("-", "");
  return {
    uuid,
    isLasting: false,
    list: async () => [],
    hasRoom: async () => true,
    open: (name, revisionLimit) =>
      opened(new PouchDB(`${uuid}/${folderOf(name)}`, { adapter: "memory", revs_limit: revisionLimit })),
    shut: shutWithViews,
    discard: async (_name, pouch) => {
      await pouch.destroy();
    },
    close: async () => {},
  };
}

/** The folder of a database. `/` is the only allowed character of a name that file systems do not take. */
export function folderOf(name: string): string {
  return encodeURIComponent(name);
}

async function lock(root: string): Promise<PouchDB.Database> {
  const deadline = performance.now() + limits.lockWaitMs;
  for (;;) {
    if (!directoriesOfThisProcess.has(root)) {
      directoriesOfThisProcess.add(root);
      try {
        return await opened(new PouchDB(join(root, serverFolder), { adapter: "leveldb" }));
      } catch (error) {
        directoriesOfThisProcess.delete(root);
        if (!/lock/i.test(String((error as Error).message))) throw error;
      }
    }
    if (performance.now() > deadline) {
      throw new DirectoryInUse(
        `another process has used the directory ${root} for the last ${limits.lockWaitMs / 1000} s; ` +
          "end it, or choose another directory (MUSTER_DATA_DIR)",
      );
    }
    await delay(100);
  }
}

async function dropDiscarded(root: string): Promise<void> {
  const left = (await readdir(root)).filter((name) => name.startsWith(discardedPrefix));
  await Promise.all(left.map((name) => rm(join(root, name), { recursive: true, force: true })));
}

async function opened(pouch: Opened): Promise<Opened> {
  // View functions that throw are reported here; without a listener PouchDB prints them.
  pouch.on("error", () => {});
  // Each reading of changes listens for the database's end: many at once are no leak.
  pouch.setMaxListeners(0);
  await pouch.info();
  return pouch;
}

/** PouchDB's `close` leaves a LevelDB database's views open, and with them their locks. */
async function shutWithViews(pouch: PouchDB.Database): Promise<void> {
  for (const view of Object.values(pouch._cachedViews ?? {})) {
    const { db } = await view.catch(() => ({ db: undefined }));
    await db?.close().catch(() => {});
  }
  await pouch.close();
}
