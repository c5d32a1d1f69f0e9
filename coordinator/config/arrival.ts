/** Whether a document that the database gives is one of its kind. Whoever wrote it may have been careless, or hostile. */
import type { FieldError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { nextVersion } from "../../config-db/revision.ts";
import type { Document, Stored } from "../../config-db/store.ts";
import { check, type SchemaName } from "../../config-db/validate.ts";
import { jsonErrors } from "../json-rules.ts";
import type { Records } from "./records.ts";
import { settingsErrors } from "./settings-rules.ts";

export type Arrival = Stored<Document> & Record<string, unknown>;

/**
 * The kinds of documents that configuration reads, and the id that each has by its fields. A map: an id that somebody wrote
 * may begin with the name of what every object has.
 */
const idOf = new Map<string, (doc: Arrival) => string>([
  ["layer", ({ layer }) => documentId.layer(layer as LayerName)],
  ["schema", ({ type }) => documentId.schema(String(type))],
  ["candidate", ({ layer }) => documentId.candidate(layer as LayerName)],
  ["secret", ({ name }) => documentId.secret(String(name))],
  ["fault", ({ document, rev }) => documentId.fault(String(document), String(rev))],
  ["objection", ({ site, document, rev }) => documentId.objection(String(site), String(document), String(rev))],
  ["history", ({ layer, rev }) => documentId.history(layer as LayerName, String(rev))],
]);

const withSettings = new Set(["layer", "candidate", "history"]);

export function kindOf({ _id }: Document): string {
  return _id.slice(0, _id.indexOf(":"));
}

/** What is wrong with a document of a kind that configuration reads; empty when nothing is. */
export function arrivalErrors(doc: Arrival): FieldError[] {
  const kind = kindOf(doc);
  const id = idOf.get(kind);
  if (id === undefined) return [];
  const errors = check(`${kind}-document` as SchemaName, doc);
  if (errors.length === 0 && id(doc) !== doc._id) {
    errors.push({ pointer: "/_id", rule: "id", message: `must be ${id(doc)}, as its fields say` });
  }
  if (errors.length > 0) return errors;
  const { settings, ...rest } = doc;
  if (withSettings.has(kind)) errors.push(...settingsErrors(settings));
  errors.push(...jsonErrors(rest, restRules));
  return errors;
}

/**
 * Whether a revision is one of its kind. One that is not has no effect wherever it is read: nothing is taken from it into
 * force, history or a merge.
 */
export function isUsable(doc: Document): boolean {
  return arrivalErrors({ _rev: "", ...doc }).length === 0;
}

/** Of all but settings: what is kept, hashed and compared as it is. Room for a schema, a fault with settings, many files. */
const restRules = { keyError: () => undefined, depthMax: limits.settingsDepth + 8, bytesMax: limits.requestBytes };

/**
 * A tombstone with the fields that its kind has. A DELETE straight to CouchDB leaves none of them; what was there is in
 * memory, or in the id. Undefined where nobody knows it: then there is nothing to take away, either.
 */
export function completeTombstone(doc: Arrival, records: Records): Arrival | undefined {
  const kind = kindOf(doc);
  const name = doc._id.slice(kind.length + 1);
  const at = name.lastIndexOf("@");
  const [about, rev] = [name.slice(0, at), name.slice(at + 1)];
  if (kind === "history") return { ...doc, layer: about, rev };
  if (kind === "fault") return { ...doc, document: about, rev };
  if (kind === "objection") {
    const [site = ""] = about.split(":", 1);
    return { ...doc, site, document: about.slice(site.length + 1), rev };
  }
  if (arrivalErrors(doc).length === 0) return doc;
  const known: Partial<Record<string, Stored<Document> | undefined>> = {
    layer: records.layers.get(name as LayerName),
    schema: records.schemas.get(name),
    candidate: records.candidates.get(name as LayerName),
    secret: records.secrets.get(name),
  };
  const last = known[kind] as (Arrival & { version: number }) | undefined;
  if (last === undefined) return undefined;
  const gone =
    kind === "layer"
      ? { settings: {}, version: nextVersion(last.version), parent: { rev: last._rev, version: last.version } }
      : {};
  return { ...last, ...gone, _rev: doc._rev, _deleted: true };
}
