/** Creates the databases, their limits and design documents. Run at every start: it changes only what differs. */

import { designDocuments } from "./design/index.ts";
import { type ErrorCode, isMusterError } from "./errors.ts";
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
    // It is there already, from an earlier start or another coordinator.
    await unless("precondition-failed", store.request({ method: "PUT", path: name }));
    const limit = { method: "PUT", path: `${name}/_revs_limit`, body: revisionLimits[name] };
    await unless("conflict", store.request(limit));
    for (const design of designDocuments[name]) await putDesign(store, name, design);
  }
}

/** Replaces a design document when its content differs. */
async function putDesign(store: Store, name: string, design: Document): Promise<void> {
  const database = store.database<Document>(name);
  const stored = await database.get(design._id);
  const { _rev, ...content } = stored ?? { _rev: undefined };
  if (JSON.stringify(content) === JSON.stringify(design)) return;
  await unless("conflict", database.put(_rev === undefined ? design : { ...design, _rev }));
}

/** What fails so was done by another coordinator at the same time: no fault. */
async function unless(code: ErrorCode, done: Promise<unknown>): Promise<void> {
  try {
    await done;
  } catch (error) {
    if (!isMusterError(error, code)) throw error;
  }
}
