/** One open database: its PouchDB handle, its settings, and who may use it when. */
import { ChangesTail } from "./changes-tail.ts";
import { isStorageFault, missingDatabase } from "./couch-error.ts";
import type { JsonObject } from "./json.ts";
import { limits } from "./limits.ts";
import type { Opened, Storage } from "./storage.ts";
import { Validators } from "./validators.ts";

/** Kept in the database itself, beside the client's own `_local` documents (local-documents.ts). */
const settingsId = "_local/muster";

interface Settings {
  _id: typeof settingsId;
  _rev?: string;
  revisionLimit: number;
  security: JsonObject;
}

/** CouchDB's default: administrators only. */
const defaultSecurity = { admins: { roles: ["_admin"] }, members: { roles: ["_admin"] } };

/** Between two attempts to open a faulty store again. */
const reopenEveryMs = 1_000;

export class Database {
  readonly name: string;
  readonly tail: ChangesTail;
  readonly validators = new Validators();
  readonly #storage: Storage;
  #pouch: Opened;
  #settings: Settings;
  #epoch = "";
  #active = 0;
  #drained: (() => void) | undefined;
  #paused: Promise<void> | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #saving: Promise<unknown> = Promise.resolve();
  #isEnded = false;
  #isFaulty = false;
  #reopenedAt = Number.NEGATIVE_INFINITY;

  private constructor(name: string, storage: Storage, pouch: Opened, settings: Settings) {
    this.name = name;
    this.#storage = storage;
    this.#pouch = pouch;
    this.#settings = settings;
    this.tail = new ChangesTail((work) => this.use(work));
  }

  static async open(name: string, storage: Storage): Promise<Database> {
    let pouch = await storage.open(name, limits.revisions.default);
    const settings = await readSettings(pouch);
    if (settings.revisionLimit !== limits.revisions.default) {
      await storage.shut(pouch);
      pouch = await storage.open(name, settings.revisionLimit);
    }
    const database = new Database(name, storage, pouch, settings);
    database.#epoch = (await pouch.id()).replaceAll("-", "").slice(0, 8);
    return database;
  }

  /** Differs from that of another database that had the same name: a `since` of that one means nothing here. */
  get epoch(): string {
    return this.#epoch;
  }

  get revisionLimit(): number {
    return this.#settings.revisionLimit;
  }

  get security(): JsonObject {
    return this.#settings.security;
  }

  /**
   * Does `work` while the database is sure to stay open. Short work only: whoever deletes or reopens the database waits
   * for it.
   * @throws CouchError 404 once the database is deleted.
   */
  async use<T>(work: (pouch: Opened) => Promise<T>): Promise<T> {
    if (this.#isFaulty) await this.#recover();
    while (this.#paused !== undefined) await this.#paused;
    if (this.#isEnded) throw missingDatabase();
    this.#active += 1;
    try {
      return await work(this.#pouch);
    } catch (error) {
      if (isStorageFault(error)) this.#isFaulty = true;
      throw error;
    } finally {
      this.#active -= 1;
      if (this.#active === 0) this.#drained?.();
    }
  }

  /** Tells feeds and validators what was written. */
  wrote(ids: Iterable<string>): void {
    for (const id of ids) {
      if (id.startsWith("_design/")) {
        this.validators.forget();
        break;
      }
    }
    this.tail.poke();
  }

  setSecurity(security: JsonObject): Promise<void> {
    return this.#inOrder(() => this.#save({ security }));
  }

  /** PouchDB takes the limit only when it opens a database, so a change opens it again. */
  setRevisionLimit(revisionLimit: number): Promise<void> {
    return this.#inOrder(async () => {
      if (revisionLimit === this.revisionLimit) return;
      await this.#save({ revisionLimit });
      await this.#reopen();
    });
  }

  /** Ends feeds, waits for what is under way, closes. */
  async close(): Promise<void> {
    await this.#end(() => this.#storage.shut(this.#pouch));
  }

  /** As `close`, and removes the database. */
  async discard(): Promise<void> {
    await this.#end(() => this.#storage.discard(this.name, this.#pouch));
  }

  async #end(finish: () => Promise<void>): Promise<void> {
    await this.#exclusively(async () => {
      if (this.#isEnded) return;
      this.#isEnded = true;
      this.tail.close();
      await finish();
    });
  }

  /** After a failed write LevelDB takes no more until it is opened again: a disk that was full may have room now. */
  async #recover(): Promise<void> {
    const now = performance.now();
    if (now - this.#reopenedAt < reopenEveryMs) return;
    this.#reopenedAt = now;
    // While there is no room what is open can at least be read.
    if (!(await this.#storage.hasRoom())) return;
    await this.#reopen();
    this.#isFaulty = false;
  }

  async #reopen(): Promise<void> {
    await this.#exclusively(async () => {
      if (this.#isEnded) return;
      await this.#storage.shut(this.#pouch).catch(() => {});
      this.#pouch = await this.#storage.open(this.name, this.#settings.revisionLimit);
    });
  }

  /** One at a time, with nobody inside `use`. */
  #exclusively(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(async () => {
      let resume = () => {};
      this.#paused = new Promise((resolve) => {
        resume = resolve;
      });
      try {
        if (this.#active > 0) {
          await new Promise<void>((resolve) => {
            this.#drained = resolve;
          });
        }
        await work();
      } finally {
        this.#drained = undefined;
        this.#paused = undefined;
        resume();
      }
    });
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** One change of the settings after the other, each upon what the one before has made of them: none is in conflict. */
  #inOrder(change: () => Promise<void>): Promise<void> {
    const changed = this.#saving.then(change);
    this.#saving = changed.catch(() => {});
    return changed;
  }

  #save(change: Partial<Settings>): Promise<void> {
    return this.use(async (pouch) => {
      const settings = { ...this.#settings, ...change };
      const { rev } = await pouch.put({ ...settings });
      this.#settings = { ...settings, _rev: rev };
    });
  }
}

async function readSettings(pouch: Opened): Promise<Settings> {
  try {
    return (await pouch.get(settingsId)) as unknown as Settings;
  } catch (error) {
    if ((error as { status?: number }).status !== 404) throw error;
    return { _id: settingsId, revisionLimit: limits.revisions.default, security: defaultSecurity };
  }
}
