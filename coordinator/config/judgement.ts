/** Whether a change of a layer, a schema or a candidate may be: what it does to the components that it concerns. */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import type { LayerName } from "../../config-db/names.ts";
import { type EffectiveSettings, type Impact, newErrors } from "./effective-settings.ts";
import { activeOf, type Holdable, type Tried } from "./records.ts";

/** Told in a refusal; how many there are in all stands in its text. */
const errorsToldMax = 100;

/** What `tried` would do to every component that it concerns. */
export function impactOf(effective: EffectiveSettings, tried: Tried): Impact[] {
  if ("secret" in tried) return effective.impact(effective.usersOfSecret(tried.secret), tried);
  return effective.impact(concernedBy(effective, "kind" in tried ? tried._id : tried.id), tried);
}

/** The components that a document of the configuration database, by its id, has influence on. */
export function concernedBy(effective: EffectiveSettings, id: string): string[] {
  if (id.startsWith("schema:")) return effective.concernedByType(id.slice("schema:".length));
  return effective.concernedByLayer(id.replace(/^(layer|candidate):/, "") as LayerName);
}

/** The same of a revision that stands in the store, and may be held. */
export function errorsOfStored(effective: EffectiveSettings, stored: Holdable): FieldError[] {
  if (stored.kind !== "candidate") return errorsOf(effective, { id: stored._id, content: activeOf(stored)?.content });
  return stored.state === "staged" && stored._deleted !== true ? errorsOf(effective, stored) : [];
}

/** The errors that `tried` would bring to components that are free of them, in one order; empty when it may be. */
export function errorsOf(effective: EffectiveSettings, tried: Tried): FieldError[] {
  return inOrder(impactOf(effective, tried).flatMap(newErrors));
}

/** The same at every coordinator and site, whichever learned of components in which order. */
export function inOrder(errors: FieldError[]): FieldError[] {
  const place = ({ component, pointer, rule, message }: FieldError) => `${component} ${pointer} ${rule} ${message}`;
  return errors.toSorted((a, b) => Number(place(a) > place(b)) - Number(place(a) < place(b)));
}

/**
 * @throws MusterError `refused` when `tried` would break a component, with component, pointer, rule and value of each
 * error. Errors that are there already do not count: they must not keep others from being mended.
 */
export function refuseErrors(effective: EffectiveSettings, what: string, tried: Tried): void {
  const errors = errorsOf(effective, tried);
  const [first] = errors;
  if (first === undefined) return;
  const components = new Set(errors.map(({ component }) => component)).size;
  const told =
    `${what} would make the settings of ${components} component${components === 1 ? "" : "s"} invalid ` +
    `(${errors.length} error${errors.length === 1 ? "" : "s"}); the first is ${first.component}: ` +
    `${first.pointer || "the settings"} ${first.message}. Nothing was written; POST /v1/config/validate tries a change`;
  throw new MusterError("refused", told, { errors: errors.slice(0, errorsToldMax) });
}
