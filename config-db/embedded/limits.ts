/** Every limit of the embedded store, with its reason. README.md lists them for users. */
export const limits = {
  /** A request's body, attachments in it included. CouchDB's own default for a document is 8,000,000 bytes. */
  bodyBytes: 8 * 1024 * 1024,
  /** Nesting of a JSON body. PouchDB walks documents recursively: deeper ones would overflow its stack. */
  depth: 256,
  /** LevelDB copies a key into every index entry; ids longer than this are a mistake. */
  documentIdLength: 1024,
  /** A database's name is a folder's name on disk, where `/` takes three characters; file systems stop at 255. */
  databaseFolderLength: 200,
  /** Request line and headers: a replicator's `open_revs` and `doc_ids` travel in the URL. */
  headerBytes: 64 * 1024,
  /** A client that takes longer to send its headers, or its whole request, is cut off. */
  headersMs: 20_000,
  requestMs: 120_000,
  /**
   * A connection that nobody uses is closed after this. Longer than clients keep one (undici, Muster's own client: 4 s; CouchDB's
   * replicator: 30 s), so that none asks on one that is being closed.
   */
  keepAliveMs: 75_000,
  /** Open sockets; each changes feed holds one. */
  connections: 10_000,
  /** CouchDB's default and highest answer to `_uuids`. */
  uuids: 1000,
  /** Changes read from disk in one go: what a slow reader can make the process hold is this many documents. */
  changesPage: 100,
  /** How long a feed waits for a change when the client does not say. CouchDB: `changes_timeout`. */
  feedTimeoutMs: { default: 60_000, max: 3_600_000 },
  /** A heartbeat more often than this would cost more than it tells. */
  heartbeatMs: { min: 50, default: 60_000, max: 3_600_000 },
  /** Revisions kept per document. CouchDB's default; PouchDB reads the tree whenever it reads the document. */
  revisions: { default: 1000, max: 10_000 },
  /** Lately written entries that a database keeps in memory, a character being one or two bytes. */
  cacheCharacters: 4 * 1024 * 1024,
  /** A design function (validate_doc_update, filter) that runs longer holds up everything: it is stopped. */
  designFunctionMs: 1_000,
  /** A map or reduce function, on one document or group. */
  viewFunctionMs: 1_000,
  /** Compiled design functions kept; each has a JavaScript context of its own, some 100 KiB. */
  compiledFunctions: 200,
  /** Room on the disk before a database that failed to write is opened again: LevelDB's write buffer, some times over. */
  reopenBytes: 16 * 1024 * 1024,
  /** How long a start waits for a process that still holds the directory: it may be ending. */
  lockWaitMs: 10_000,
  /** How long `close` waits for requests that are being answered. */
  drainMs: 5_000,
} as const;
