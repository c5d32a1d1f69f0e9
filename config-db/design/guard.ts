/**
 * `validate_doc_update`: what a document must have to be written at all, whoever writes it and by whatever way:
 * replication and curl pass no other check. It guards the envelope; what settings mean is the coordinator's to judge.
 *
 * The function must let pass what a newer Muster writes at another site, or replication would drop it for good: of kinds
 * and schema versions that it does not know it checks only that they say what they are.
 */

import { limits } from "../limits.ts";
import { versionMax } from "../revision.ts";

/** How a field has to look, in words that the function knows. */
type Shape = "string" | "object" | "count" | "interval" | "id" | "time" | "layer" | "hash" | readonly string[];

export interface Kind {
  /** Required, but in a tombstone. */
  fields: Record<string, Shape>;
  /** The fields that `_id` is made of, between the separators that it has. */
  id: readonly string[];
  separators?: readonly string[];
}

const written = { version: "count", changedBy: "string", changedAt: "time", site: "id" } as const;

export const configKinds: Record<string, Kind> = {
  layer: { id: ["layer"], fields: { layer: "layer", settings: "object", ...written } },
  schema: { id: ["type"], fields: { type: "id", schema: "object", ...written } },
  candidate: {
    id: ["layer"],
    fields: {
      layer: "layer",
      settings: "object",
      selector: "object",
      state: ["staged", "promoted", "withdrawn"],
      ...written,
    },
  },
  secret: { id: ["name"], fields: { name: "id", sealed: "object", ...written } },
  history: {
    id: ["layer", "rev"],
    separators: ["@"],
    fields: { layer: "layer", rev: "string", settings: "object", ...written },
  },
  content: { id: ["sha256"], fields: { sha256: "hash" } },
  fault: { id: ["document", "rev"], separators: ["@"], fields: { document: "string", rev: "string" } },
  objection: {
    id: ["site", "document", "rev"],
    separators: [":", "@"],
    fields: { site: "id", document: "string", rev: "string" },
  },
};

export const registryKinds: Record<string, Kind> = {
  component: {
    id: ["id"],
    fields: {
      id: "id",
      type: "id",
      site: "id",
      ttlMs: "count",
      state: ["up", "expired", "gone"],
      incarnation: "count",
      registeredAt: "time",
      changedAt: "time",
    },
  },
  site: {
    id: ["site"],
    fields: { site: "id", coordinatorUrl: "string", beat: "count", beatEveryMs: "interval", epoch: "count" },
  },
};

/** The text of the function for a database of these kinds: ES5, as CouchDB's JavaScript engine takes it. */
export function guard(kinds: Record<string, Kind>): string {
  return `function (doc) {
  var kinds = ${JSON.stringify(kinds)};
  var shapes = {
    string: function (value) { return typeof value === "string"; },
    object: function (value) { return typeof value === "object" && value !== null && !Array.isArray(value); },
    count: function (value) {
      return typeof value === "number" && value >= 1 && value <= ${versionMax} && Math.floor(value) === value;
    },
    interval: function (value) {
      return shapes.count(value) && value >= ${limits.beatEveryMs.min} && value <= ${limits.beatEveryMs.max};
    },
    id: function (value) { return typeof value === "string" && /^[a-z0-9][a-z0-9._-]{0,62}$/.test(value); },
    time: function (value) { return typeof value === "string" && /^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?Z$/.test(value); },
    layer: function (value) {
      return typeof value === "string" && /^(platform|(subsystem|type|component):[a-z0-9][a-z0-9._-]{0,62})$/.test(value);
    },
    hash: function (value) { return typeof value === "string" && /^[0-9a-f]{64}$/.test(value); }
  };
  function refuse(why) { throw { forbidden: doc._id + ": " + why }; }
  function has(object, key) { return Object.prototype.hasOwnProperty.call(object, key); }

  if (doc._id.indexOf("_design/") === 0) return;
  var colon = doc._id.indexOf(":");
  if (colon < 1) refuse("an id is <kind>:<name>");
  var name = doc._id.slice(0, colon);
  if (doc._deleted === true && !has(doc, "kind")) return;
  if (doc.kind !== name) refuse("kind must be " + JSON.stringify(name) + ", as the id says");
  if (!shapes.count(doc.schemaVersion)) refuse("schemaVersion must be a number from 1");
  if (doc.schemaVersion > 1 || !has(kinds, name)) return;

  var kind = kinds[name];
  for (var field in kind.fields) {
    if (doc._deleted === true && !has(doc, field)) continue;
    var shape = kind.fields[field];
    if (!has(doc, field)) refuse(field + " is missing");
    if (Array.isArray(shape) ? shape.indexOf(doc[field]) < 0 : !shapes[shape](doc[field])) {
      refuse(field + " must be " + (Array.isArray(shape) ? "one of " + shape.join(", ") : "of the form " + shape));
    }
  }
  var id = name + ":";
  for (var at = 0; at < kind.id.length; at++) {
    if (!has(doc, kind.id[at])) return;
    id += (at > 0 ? kind.separators[at - 1] : "") + doc[kind.id[at]];
  }
  if (id !== doc._id) refuse("the id must be " + id + ", as " + kind.id.join(" and ") + " say");
}`;
}
