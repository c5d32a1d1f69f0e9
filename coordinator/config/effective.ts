/** A component's effective settings: layers merged, defaults filled in, checked, secrets resolved. Pure. */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import { etagOf } from "./etag.ts";
import { explain, type Origin } from "./explain.ts";
import { isObject, mergeLayers, type Settings } from "./merge.ts";
import { childPointer } from "./pointer.ts";
import type { ChainLink } from "./records.ts";
import type { CompiledSchema } from "./schema.ts";
import { secretKey } from "./settings-rules.ts";

/** The schema of a type, in force. */
export interface SchemaInForce {
  type: string;
  version: number;
  rev: string;
  compiled: CompiledSchema;
}

/** A secret as the one who resolves it sees it. `value` is undefined where this site cannot open it. */
export interface KnownSecret {
  value: string | undefined;
  digest: string;
}

export interface Effective {
  etag: string;
  /** With references in place of secrets: for all but the component itself. */
  settings: Settings;
  /** What the schema and the references say against them. */
  errors: FieldError[];
  /** Names of the secrets that they refer to. */
  secrets: string[];
  /** The settings as JSON, secrets resolved, made once: a warm GET by the component sends these bytes. */
  body: Buffer;
  /** Set where a secret cannot be resolved here: the component gets this instead of settings that it cannot use. */
  fault?: MusterError;
}

/** Where settings refer to a secret. */
interface Reference {
  name: string;
  pointer: string;
  /** The object or array that holds the reference in the resolved copy, and under which key. */
  holder: Record<string, unknown>;
  key: string;
}

export function computeEffective(
  chain: ChainLink[],
  schema: SchemaInForce | undefined,
  secretOf: (name: string) => KnownSecret | undefined,
): Effective {
  const merged = mergeLayers(chain);
  // A copy: defaults are filled in, and what layers hold must not change.
  const resolved = structuredClone(merged);
  const references = findReferences(resolved);
  const errors = resolveReferences(references, secretOf);
  if (schema !== undefined) errors.push(...withoutValuesOf(references, schema.compiled.check(resolved)));
  const body = Buffer.from(JSON.stringify(resolved));
  if (references.length === 0) return { etag: etagOf(resolved), settings: resolved, errors, secrets: [], body };

  // The order matters: `resolved` itself becomes the settings with references, after its bytes were made.
  const fault = unresolvable(references, secretOf);
  for (const { holder, key, name } of references)
    holder[key] = { [secretKey]: name, digest: secretOf(name)?.digest ?? "" };
  const etag = etagOf(resolved);
  for (const { holder, key, name } of references) holder[key] = { [secretKey]: name };
  const secrets = [...new Set(references.map(({ name }) => name))];
  return { etag, settings: resolved, errors, secrets, body, ...(fault === undefined ? {} : { fault }) };
}

/** For each leaf of effective settings the layer that it came from, or the schema where it is a default. */
export function explainEffective(
  { settings }: Effective,
  chain: ChainLink[],
  schema: SchemaInForce | undefined,
): Record<string, Origin> {
  const origins = explain(chain);
  const byDefault: Origin = { layer: `schema:${schema?.type ?? ""}`, version: schema?.version ?? 0 };
  return Object.fromEntries(leafPointers(settings).map((pointer) => [pointer, origins[pointer] ?? byDefault]));
}

function leafPointers(value: unknown, pointer = ""): string[] {
  const members = isObject(value) ? Object.entries(value) : [];
  if (members.length === 0) return pointer === "" ? [] : [pointer];
  return members.flatMap(([key, child]) => leafPointers(child, childPointer(pointer, key)));
}

function findReferences(root: Settings): Reference[] {
  const found: Reference[] = [];
  const walk = (holder: Record<string, unknown>, pointer: string) => {
    for (const [key, value] of Object.entries(holder)) {
      if (typeof value !== "object" || value === null) continue;
      const at = childPointer(pointer, key);
      const name = (value as Settings)[secretKey];
      if (typeof name === "string" && !Array.isArray(value)) found.push({ name, pointer: at, holder, key });
      else walk(value as Settings, at);
    }
  };
  walk(root, "");
  return found;
}

/** Puts values in place of references. A merge may have made a reference that no layer alone would be allowed. */
function resolveReferences(references: Reference[], secretOf: (name: string) => KnownSecret | undefined): FieldError[] {
  const errors: FieldError[] = [];
  for (const { name, pointer, holder, key } of references) {
    const error = (message: string) => errors.push({ pointer, rule: "secret", message });
    const secret = secretOf(name);
    if (Object.keys(holder[key] as object).length > 1) error(`refers to secret "${name}" and has other members beside`);
    if (secret === undefined) error(`refers to secret "${name}", which does not exist: PUT /v1/config/secrets/${name}`);
    if (secret?.value !== undefined) holder[key] = secret.value;
  }
  return errors;
}

/** What a schema says of a resolved secret must not tell its value. */
function withoutValuesOf(references: Reference[], errors: FieldError[]): FieldError[] {
  if (references.length === 0) return errors;
  const secret = new Set(references.map(({ pointer }) => pointer));
  return errors.map((error) => {
    if (!secret.has(error.pointer)) return error;
    const { value: _, ...told } = error;
    return told;
  });
}

function unresolvable(
  references: Reference[],
  secretOf: (name: string) => KnownSecret | undefined,
): MusterError | undefined {
  const lost = references.find(({ name }) => secretOf(name)?.value === undefined);
  if (lost === undefined) return undefined;
  const why =
    secretOf(lost.name) === undefined
      ? "which does not exist"
      : "which this site cannot open: MUSTER_SECRET_KEY is not set or another one";
  return new MusterError("refused", `the settings refer at ${lost.pointer} to secret "${lost.name}", ${why}`);
}
