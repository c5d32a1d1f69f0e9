/** Replication by a real CouchDB itself, through documents in its `_replicator` database. */
import { isMusterError } from "../errors.ts";
import type { Document, Store } from "../store.ts";
import {
  type Replicate,
  type Replication,
  type ReplicationSpec,
  type ReplicationStatus,
  replicated,
  silenceMs,
  withoutCredentials,
} from "./replication.ts";

/** Its scheduler refreshes the figures of a running job about as often. */
const pollMs = 1_000;

/** What `_scheduler/docs/_replicator/<id>` answers, as far as it is read here. */
interface JobReport {
  state: "initializing" | "error" | "pending" | "running" | "crashing" | "completed" | "failed";
  info: {
    error?: string;
    changes_pending?: number | null;
    docs_written?: number;
    doc_write_failures?: number;
    checkpointed_source_seq?: string | number;
  } | null;
}

interface ReplicatorDocument extends Document {
  source: object;
  target: object;
  [option: string]: unknown;
}

/** @param store the CouchDB that replicates: it must reach both URLs of a spec itself. */
export function createCouchReplicator(store: Store): { replicate: Replicate; close(): Promise<void> } {
  return { replicate: (spec) => new CouchReplication(store, spec), close: async () => {} };
}

class CouchReplication implements Replication {
  readonly #store: Store;
  readonly #doc: ReplicatorDocument;
  #status: ReplicationStatus = { state: "starting", documentsWritten: 0, refused: { count: 0 } };
  #timer: NodeJS.Timeout;
  #working: Promise<void>;
  #closed = false;

  constructor(store: Store, spec: ReplicationSpec) {
    this.#store = store;
    this.#doc = replicatorDocument(spec);
    this.#working = this.#attempt(() => this.#install());
    this.#timer = setInterval(() => this.#turn(() => this.#poll()), pollMs);
  }

  status(): ReplicationStatus {
    return this.#status;
  }

  /**
   * CouchDB lets a job that crashed wait for 30 s and more, and one that has not yet noticed that its connections are dead
   * says that it runs: a new document starts a new job, from the same checkpoint.
   */
  retry(): void {
    if (this.#status.state !== "starting") this.#turn(() => this.#reinstall());
  }

  async close(): Promise<void> {
    if (this.#closed) return this.#working;
    this.#closed = true;
    clearInterval(this.#timer);
    this.#working = this.#working.then(() => this.#attempt(() => this.#remove()));
    await this.#working;
  }

  /** One thing at a time; what comes while another is under way is left out. */
  #turn(work: () => Promise<void>): void {
    if (this.#closed || this.#busy) return;
    this.#working = this.#attempt(work);
  }

  #busy = false;

  async #attempt(work: () => Promise<void>): Promise<void> {
    this.#busy = true;
    try {
      await work();
    } catch (error) {
      this.#fail((error as Error).message);
    } finally {
      this.#busy = false;
    }
  }

  #fail(message: string): void {
    this.#status = { ...this.#status, state: "error", lastError: withoutCredentials(message).slice(0, 500) };
  }

  async #install(): Promise<void> {
    const stored = await this.#read();
    if (stored !== undefined && isSameJob(stored, this.#doc)) return;
    await this.#database.put(stored === undefined ? this.#doc : { ...this.#doc, _rev: stored._rev as string });
  }

  async #reinstall(): Promise<void> {
    await this.#remove();
    await this.#install();
    this.#status = { ...this.#status, state: "starting" };
  }

  async #remove(): Promise<void> {
    const stored = await this.#read();
    if (stored === undefined) return;
    try {
      await this.#database.put({ _id: stored._id, _rev: stored._rev as string, _deleted: true } as ReplicatorDocument);
    } catch (error) {
      if (!isMusterError(error, "conflict")) throw error;
    }
  }

  get #database() {
    return this.#store.database<ReplicatorDocument>("_replicator");
  }

  async #read(): Promise<ReplicatorDocument | undefined> {
    return this.#database.get(this.#doc._id);
  }

  async #poll(): Promise<void> {
    let report: JobReport;
    try {
      const path = `_scheduler/docs/_replicator/${encodeURIComponent(this.#doc._id)}`;
      report = await this.#store.request<JobReport>({ path });
    } catch (error) {
      // Not scheduled yet, or someone deleted our document.
      if (!isMusterError(error, "not-found")) throw error;
      return this.#install();
    }
    // These two are final for CouchDB. For us nothing is.
    if (report.state === "failed" || report.state === "completed") await this.#reinstall();
    this.#status = statusOf(report, this.#status);
  }
}

function statusOf({ state, info }: JobReport, before: ReplicationStatus): ReplicationStatus {
  const pending = info?.changes_pending ?? undefined;
  const failures = info?.doc_write_failures ?? before.refused.count;
  const status: ReplicationStatus = {
    state: "starting",
    documentsWritten: info?.docs_written ?? before.documentsWritten,
    refused: {
      count: failures,
      ...(failures === 0 ? {} : { last: "CouchDB's log at level `notice` names them" }),
    },
  };
  if (pending !== undefined) status.pending = pending;
  const checkpoint = info?.checkpointed_source_seq ?? before.checkpoint;
  if (checkpoint !== undefined) status.checkpoint = String(checkpoint);
  // Its figures come seconds after a job began to run, and seconds apart.
  if (state === "running") return { ...status, state: pending === 0 ? "idle" : "active" };
  const error = info?.error;
  if (state === "crashing" || state === "error" || state === "failed") {
    return { ...status, state: "error", lastError: withoutCredentials(error ?? state).slice(0, 500) };
  }
  return status;
}

function replicatorDocument({ id, database, sourceUrl, targetUrl }: ReplicationSpec): ReplicatorDocument {
  return {
    _id: id,
    source: endpoint(sourceUrl, database),
    target: endpoint(targetUrl, database),
    continuous: true,
    selector: replicated,
    // Few processes and connections: there are four jobs for each peer.
    worker_processes: 1,
    http_connections: 4,
    connection_timeout: silenceMs,
    // A lost link is told after these; the site's own watch over the peer starts the job again when it is back.
    retries_per_request: 3,
    checkpoint_interval: 5_000,
  };
}

/** Credentials apart from the URL: CouchDB logs URLs. */
function endpoint(serverUrl: string, database: string): object {
  const url = new URL(`${serverUrl.replace(/\/$/, "")}/${database}`);
  const { username, password } = url;
  url.username = "";
  url.password = "";
  if (username === "") return { url: url.href };
  const basic = { username: decodeURIComponent(username), password: decodeURIComponent(password) };
  return { url: url.href, auth: { basic } };
}

/** CouchDB adds fields of its own (`owner`). */
function isSameJob(stored: ReplicatorDocument, wanted: ReplicatorDocument): boolean {
  return Object.entries(wanted).every(([field, value]) => JSON.stringify(stored[field]) === JSON.stringify(value));
}
