/** The databases of this store: made, opened at their first use, deleted; those of one name one after the other. */
import { CouchError, missingDatabase } from "./couch-error.ts";
import { Database } from "./database.ts";
import { limits } from "./limits.ts";
import { folderOf, type Storage } from "./storage.ts";

const namePattern = /^[a-z][a-z0-9_$()+/-]*$/;

export class Databases {
  readonly #storage: Storage;
  readonly #names: Set<string>;
  readonly #open = new Map<string, Promise<Database>>();
  readonly #turns = new Map<string, Promise<unknown>>();

  private constructor(storage: Storage, names: string[]) {
    this.#storage = storage;
    this.#names = new Set(names);
  }

  static async open(storage: Storage): Promise<Databases> {
    return new Databases(storage, await storage.list());
  }

  get uuid(): string {
    return this.#storage.uuid;
  }

  /** In the order of their names. */
  list(): string[] {
    return [...this.#names].sort();
  }

  /** @throws CouchError 404 where there is none. */
  get(name: string): Promise<Database> {
    if (!this.#names.has(name)) return Promise.reject(missingDatabase());
    let database = this.#open.get(name);
    if (database === undefined) {
      database = Database.open(name, this.#storage);
      this.#open.set(name, database);
      // One that cannot be opened now may be at the next request.
      database.catch(() => this.#open.delete(name));
    }
    return database;
  }

  /** @throws CouchError 400 for a bad name, 412 where there is one already. */
  async create(name: string): Promise<void> {
    if (!namePattern.test(name) || folderOf(name).length > limits.databaseFolderLength) {
      throw new CouchError(
        400,
        "illegal_database_name",
        `Name: '${name.slice(0, 250)}'. Only lowercase characters (a-z), digits (0-9), and any of the characters ` +
          "_, $, (, ), +, -, and / are allowed. Must begin with a letter." +
          ` At most ${limits.databaseFolderLength} characters, a / counting as three.`,
      );
    }
    await this.#inTurn(name, async () => {
      if (this.#names.has(name)) {
        throw new CouchError(412, "file_exists", "The database could not be created, the file already exists.");
      }
      const opening = Database.open(name, this.#storage);
      this.#open.set(name, opening);
      try {
        await opening;
        this.#names.add(name);
      } catch (error) {
        this.#open.delete(name);
        throw error;
      }
    });
  }

  /** @throws CouchError 404 where there is none. */
  async delete(name: string): Promise<void> {
    await this.#inTurn(name, async () => {
      const database = await this.get(name);
      this.#names.delete(name);
      this.#open.delete(name);
      await database.discard();
    });
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#turns.values());
    const open = await Promise.allSettled(this.#open.values());
    this.#names.clear();
    this.#open.clear();
    for (const each of open) {
      if (each.status === "rejected") continue;
      // What is in memory would otherwise stay in PouchDB's for as long as the process lives.
      await (this.#storage.isLasting ? each.value.close() : each.value.discard());
    }
    await this.#storage.close();
  }

  async #inTurn(name: string, work: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(name) ?? Promise.resolve();
    const turn = before.then(work);
    const settled = turn.catch(() => {});
    this.#turns.set(name, settled);
    try {
      await turn;
    } finally {
      if (this.#turns.get(name) === settled) this.#turns.delete(name);
    }
  }
}
