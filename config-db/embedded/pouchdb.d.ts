// biome-ignore-all lint/style/noDefaultExport: these are the packages' own exports.
/**
 * The part of PouchDB 9 that the embedded store stands on. Written here, because `@types/pouchdb` pulls the DOM's types
 * into every file of the program and has nothing on the packages below.
 */
declare module "pouchdb" {
  namespace PouchDB {
    interface Options {
      adapter?: "leveldb" | "memory" | "http";
      /** A LevelDB to use in place of `leveldown`. */
      db?: unknown;
      /** Revisions kept in a document's tree; fixed when the database is opened. */
      revs_limit?: number;
      auto_compaction?: boolean;
      auth?: { username: string; password: string };
      skip_setup?: boolean;
      /** Database options that a real CouchDB has and PouchDB passes on. */
      [option: string]: unknown;
    }

    // biome-ignore lint/suspicious/noExplicitAny: a document's content is its owner's; any lets each caller say what it expects.
    type Doc = { _id: string; _rev?: string; [field: string]: any };

    interface ChangeRow {
      seq: number;
      id: string;
      changes: { rev: string }[];
      deleted?: boolean;
      doc?: Doc;
    }

    interface Replication extends Promise<unknown> {
      on(event: string, listener: (value: never) => void): Replication;
      cancel(): void;
    }

    type Callback<T> = (error: unknown, value: T) => void;

    interface Database {
      readonly name: string;
      /** Views that were opened through this handle; a private field of abstract-mapreduce. */
      readonly _cachedViews?: Record<string, Promise<{ db: Database }>>;
      on(event: string, listener: (value: never) => void): this;
      setMaxListeners(most: number): this;
      info(): Promise<{ db_name: string; doc_count: number; update_seq: number }>;
      id(): Promise<string>;
      get(id: string, options?: Record<string, unknown>): Promise<Doc>;
      put(doc: Doc, options?: Record<string, unknown>): Promise<{ ok: true; id: string; rev: string }>;
      post(doc: object): Promise<{ ok: true; id: string; rev: string }>;
      remove(id: string, rev: string): Promise<{ ok: true; id: string; rev: string }>;
      bulkDocs(docs: object[], options?: { new_edits?: boolean }): Promise<BulkRow[]>;
      allDocs(options?: Record<string, unknown>): Promise<{ total_rows: number; offset: number; rows: AllDocsRow[] }>;
      changes(options: Record<string, unknown>): Promise<{ results: ChangeRow[]; last_seq: number | string }>;
      query(view: string, options?: Record<string, unknown>): Promise<Record<string, unknown>>;
      viewCleanup(): Promise<unknown>;
      compact(): Promise<unknown>;
      close(): Promise<void>;
      destroy(): Promise<void>;
      putAttachment(id: string, name: string, rev: string, data: Buffer, type: string): Promise<{ rev: string }>;
      getAttachment(id: string, name: string): Promise<Buffer>;
      readonly replicate: {
        to(target: Database | string, options?: Record<string, unknown>): Replication;
        from(source: Database | string, options?: Record<string, unknown>): Replication;
      };
      find(request: object): Promise<{ docs: Doc[]; warning?: string }>;
      createIndex(request: object): Promise<{ id: string; name: string; result: string }>;
      getIndexes(): Promise<{ total_rows: number; indexes: object[] }>;
      deleteIndex(index: object): Promise<unknown>;
      explain(request: object): Promise<object>;
      /** The adapter's own call under `revsDiff`: a document's revision tree. Reads one key, takes no turn in the queue. */
      _getRevisionTree(id: string, callback: Callback<import("pouchdb-merge").RevisionTree>): void;
    }

    interface BulkRow {
      ok?: true;
      id: string;
      rev?: string;
      error?: unknown;
      name?: string;
      reason?: string;
      message?: string;
      status?: number;
    }

    interface AllDocsRow {
      id: string;
      key: string;
      value?: { rev: string; deleted?: boolean };
      doc?: Doc | null;
      error?: string;
    }

    interface Static {
      new (name: string, options?: Options): Database;
      plugin(plugin: unknown): Static;
      sync(one: Database | string, other: Database | string, options?: Record<string, unknown>): Replication;
    }
  }
  const PouchDB: PouchDB.Static;
  export default PouchDB;
  export type { PouchDB };
}

declare module "leveldown" {
  export type Done<T> = (error: Error | null | undefined, value?: T) => void;
  export type Batch = { type: "put" | "del"; key: unknown; value?: unknown }[];
  /** LevelDB for Node, an abstract-leveldown: whoever extends it overrides the methods with an underscore. */
  export default class LevelDOWN {
    constructor(location: string);
    static destroy(location: string, done: Done<void>): void;
    _close(done: Done<void>): void;
    _get(key: unknown, options: object, done: Done<unknown>): void;
    /** Gives undefined in the place of what is not there. */
    _getMany(keys: unknown[], options: object, done: Done<unknown[]>): void;
    _put(key: unknown, value: unknown, options: object, done: Done<void>): void;
    _del(key: unknown, options: object, done: Done<void>): void;
    _batch(operations: Batch, options: object, done: Done<void>): void;
    _clear(options: object, done: Done<void>): void;
  }
}

declare module "pouchdb-adapter-memory" {
  const plugin: unknown;
  export default plugin;
}

declare module "pouchdb-find" {
  const plugin: unknown;
  export default plugin;
}

declare module "pouchdb-merge" {
  /** A node: its hash, whether its body is stored, its children. */
  export type RevisionNode = [hash: string, options: { status: string; deleted?: boolean }, children: RevisionNode[]];
  export type RevisionTree = { pos: number; ids: RevisionNode }[];
  export function collectLeaves(tree: RevisionTree): { rev: string; opts: { status: string; deleted?: boolean } }[];
  export function collectConflicts(metadata: { rev_tree: RevisionTree }): string[];
  export function winningRev(metadata: { rev_tree: RevisionTree }): string;
  export function isDeleted(metadata: { rev_tree: RevisionTree }, rev?: string): boolean;
  export function traverseRevTree(
    tree: RevisionTree,
    visit: (isLeaf: boolean, pos: number, hash: string, context: unknown, options: { status: string }) => unknown,
  ): void;
}

declare module "pouchdb-selector-core" {
  export function matchesSelector(doc: object, selector: object): boolean;
}

declare module "pouchdb-abstract-mapreduce" {
  type Emit = (key: unknown, value: unknown) => void;
  export default function createAbstractMapReduce(
    localDocName: string,
    mapper: (map: string, emit: Emit) => (doc: object) => void,
    reducer: (reduce: string) => (keys: unknown[], values: unknown[], rereduce: boolean) => unknown,
    ddocValidator: (design: Record<string, unknown>, viewName: string) => void,
  ): {
    query(this: unknown, view: string, options: object): Promise<Record<string, unknown>>;
    viewCleanup(this: unknown): Promise<unknown>;
  };
}
