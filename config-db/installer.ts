/** Creates the databases, their limits and design documents. Run at every start: it changes only what differs. */

import { designDocuments } from "./design/index.ts";
import { isMusterError } from "./errors.ts";
import { databases } from "./names.ts";
import type { Document, Store } from "./store.ts";

/**
 * Revisions kept per document. A hot registry document at 1000 costs 9.1 KB of file an update, at 10 a tenth; too few
 * give false conflicts to a site that was long away (docs/operations.md).
 */
export const revisionLimits = { [databases.config]: 1000, [databases.registry]: 50, [databases.commands]: 5 } as const;

/** @throws MusterError `store-unavailable`; what was installed before stays and the next run goes on from there. */
export async function install(store: Store): Promise<void> {
  for (const name of Object.values(databases)) {
    await createDatabase(store, name);
    await store.request({ method: "PUT", path: `${name}/_revs_limit`, body: revisionLimits[name] });
    for (const design of designDocuments[name]) await putDesign(store, name, design);
  }
}

async function createDatabase(store: Store, name: string): Promise<void> {
  try {
    await store.request({ method: "PUT", path: name });
  } catch (error) {
    // 412 file_exists: it is there already, from an earlier start or another coordinator.
    if (!isMusterError(error, "precondition-failed")) throw error;
  }
}

/** Replaces a design document when its content differs. Another coordinator that does the same at once is no fault. */
async function putDesign(store: Store, name: string, design: Document): Promise<void> {
  const database = store.database<Document>(name);
  const stored = await database.get(design._id);
  const { _rev, ...content } = stored ?? { _rev: undefined };
  if (JSON.stringify(content) === JSON.stringify(design)) return;
  try {
    await database.put(_rev === undefined ? design : { ...design, _rev });
  } catch (error) {
    if (!isMusterError(error, "conflict")) throw error;
  }
}
