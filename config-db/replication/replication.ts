/**
 * One direction of one database, continuously from a source to a target. Two engines do it: CouchDB's own replicator
 * where this site's store is a real CouchDB, PouchDB's in this process where it is the embedded one. Both keep their
 * checkpoints at both ends, so that a run which ends goes on where it was.
 */

export interface ReplicationSpec {
  /** Names it in the engine: stable over restarts, unique per store. */
  id: string;
  database: string;
  /** Servers' URLs, credentials in them if they want any. */
  sourceUrl: string;
  targetUrl: string;
  /** True when the target is known to have this revision: an engine that can need not ask it. */
  targetHas?(id: string, rev: string): boolean;
  /** What an engine may wait between two looks at a source that changes all the time: fewer, larger batches. */
  restMs?: number;
}

export interface ReplicationStatus {
  /** `idle`: the target has all that the source had when last heard. */
  state: "starting" | "active" | "idle" | "error";
  /** Changes that the source has and the target may not, as far as the engine says. */
  pending?: number;
  /** Up to which of the source's sequences the target has everything. */
  checkpoint?: string;
  lastError?: string;
  /** Since the engine began this run. */
  documentsWritten: number;
  /** Documents that the target's guards did not let in; `last` says which and why, where the engine tells. */
  refused: { count: number; last?: string };
}

export interface Replication {
  status(): ReplicationStatus;
  /** Tries again at once instead of waiting for its turn: the other side has just come back. */
  retry(): void;
  /** Ends it. May be called again. */
  close(): Promise<void>;
}

/** Starts one. It never fails: what goes wrong is told by its status and tried again. */
export type Replicate = (spec: ReplicationSpec) => Replication;

/** Not the design documents: each site installs those of its own version. All other ids of Muster begin with a letter. */
export const replicated = { _id: { $gt: "a" } };

/** Both engines ask the source for a sign of life so often while nothing changes … */
export const heartbeatMs = 4_000;
/** … and take a connection for dead after this much silence: a link that swallows everything closes nothing. */
export const silenceMs = 10_000;

/** A text without the credentials that a URL in it may hold. */
export function withoutCredentials(text: string): string {
  return text.replaceAll(/([a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, "$1");
}
