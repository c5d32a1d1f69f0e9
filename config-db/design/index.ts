/**
 * The design documents: views for those who read CouchDB straight, and `validate_doc_update`, which guards the envelope
 * of what comes in by replication. Functions are text: they run in CouchDB's JavaScript (ES5), not here.
 */
import { type DatabaseName, databases } from "../names.ts";
import type { Document } from "../store.ts";
import { configKinds, guard, registryKinds } from "./guard.ts";

export interface DesignDocument extends Document {
  language: "javascript";
  views?: Record<string, { map: string; reduce?: string }>;
  validate_doc_update?: string;
}

export const designDocuments: Record<DatabaseName, DesignDocument[]> = {
  [databases.config]: [
    {
      _id: "_design/muster",
      language: "javascript",
      views: {
        "layers-by-kind": {
          map: `function (doc) {
  if (doc.kind === "layer") emit(doc.layer.split(":"), { version: doc.version, changedAt: doc.changedAt, changedBy: doc.changedBy });
}`,
        },
        "history-by-layer": {
          map: `function (doc) {
  if (doc.kind === "history") emit([doc.layer, doc.version], { rev: doc.rev, changedAt: doc.changedAt, changedBy: doc.changedBy });
}`,
        },
      },
      validate_doc_update: guard(configKinds),
    },
  ],
  [databases.registry]: [
    {
      _id: "_design/muster",
      language: "javascript",
      views: {
        "components-by-type": {
          map: `function (doc) {
  if (doc.kind === "component") emit([doc.type, doc.state], { site: doc.site, endpoints: doc.endpoints || {} });
}`,
        },
      },
      validate_doc_update: guard(registryKinds),
    },
  ],
  [databases.commands]: [],
};
