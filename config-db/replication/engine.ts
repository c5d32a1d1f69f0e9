/** Which engine replicates for a store: its own, where it has one. */
import type { Store } from "../store.ts";
import { createCouchReplicator } from "./couchdb.ts";
import { createPouchReplicator } from "./pouchdb.ts";
import type { Replicate } from "./replication.ts";

export interface ReplicationEngine {
  replicate: Replicate;
  /** To be called when all replications are closed. */
  close(): Promise<void>;
}

/** @throws MusterError `store-unavailable` */
export async function chooseReplicationEngine(store: Store): Promise<ReplicationEngine> {
  const { features = [] } = await store.request<{ features?: string[] }>({ path: "" });
  return features.includes("scheduler") ? createCouchReplicator(store) : createPouchReplicator();
}
