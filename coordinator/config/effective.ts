/** A component's effective settings: layers merged, defaults filled in, checked, secrets resolved. Pure. */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import { childPointer, pointerKeys } from "../pointer.ts";
import { canonicalJson, canonicalShared, etagOfCanonical } from "./etag.ts";
import { explain, type Origin } from "./explain.ts";
import { isObject, type Settings } from "./merge.ts";
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

/** Where settings refer to a secret. */
interface Reference {
  name: string;
  pointer: string;
  /** False where other members stand beside it: a merge may make what no layer alone may have. */
  isAlone: boolean;
}

/** A component's effective settings. Never changed: what is costly is made when it is first asked for. */
export class Effective {
  /** With references in place of secrets: for all but the component itself. */
  readonly settings: Settings;
  /** What the schema and the references say against them. */
  readonly errors: FieldError[];
  /** References to secrets that this site cannot open: no write is at fault, so that none is judged by them. */
  readonly unopened: FieldError[];
  /** Names of the secrets that they refer to. */
  readonly secrets: string[];
  /** Set where a secret cannot be resolved here: the component gets this instead of settings that it cannot use. */
  readonly fault: MusterError | undefined;
  readonly #resolved: Settings;
  readonly #canonical: () => string;
  #etag: string | undefined;
  #body: Buffer | undefined;
  #told: { etag: string; settings: Settings } | undefined;
  #sizeCharacters = 0;

  /** @param canonical the canonical JSON of what the etag stands for. */
  constructor(
    parts: Pick<Effective, "settings" | "errors" | "secrets"> & Partial<Pick<Effective, "unopened" | "fault">>,
    resolved: Settings,
    canonical: () => string,
  ) {
    this.settings = parts.settings;
    this.errors = parts.errors;
    this.unopened = parts.unopened ?? [];
    this.secrets = parts.secrets;
    this.fault = parts.fault;
    this.#resolved = resolved;
    this.#canonical = canonical;
  }

  get etag(): string {
    if (this.#etag === undefined) {
      const canonical = this.#canonical();
      this.#sizeCharacters = canonical.length;
      this.#etag = etagOfCanonical(canonical);
    }
    return this.#etag;
  }

  /** The settings as JSON, secrets resolved: a GET by the component sends these bytes. */
  get body(): Buffer {
    this.#body ??= Buffer.from(JSON.stringify(this.#resolved));
    return this.#body;
  }

  /** What watchers of the component are told: the same object to all. */
  get told(): { etag: string; settings: Settings } {
    this.#told ??= { etag: this.etag, settings: this.#resolved };
    return this.#told;
  }

  /** How much JSON this is: what a cache of these goes by. */
  get sizeCharacters(): number {
    return this.etag === "" ? 0 : this.#sizeCharacters;
  }
}

const mentions = new WeakMap<Settings, boolean>();

/** Whether a layer's settings refer to any secret; found out once for each. */
export function mentionsSecret(settings: Settings): boolean {
  let known = mentions.get(settings);
  if (known === undefined) {
    known = findReferences(settings).length > 0;
    mentions.set(settings, known);
  }
  return known;
}

/**
 * @param merged the layers' settings, merged; not changed
 * @param mayRefer false where no layer mentions a secret: then nobody looks for them
 */
export function computeEffective(
  merged: Settings,
  mayRefer: boolean,
  schema: SchemaInForce | undefined,
  secretOf: (name: string) => KnownSecret | undefined,
): Effective {
  const references = mayRefer ? findReferences(merged) : [];
  if (references.length === 0 && schema === undefined) {
    const parts = { settings: merged, errors: [], secrets: [] };
    return new Effective(parts, merged, () => canonicalShared(merged));
  }
  const resolved = cloneJson(merged) as Settings;
  const errors = resolveReferences(resolved, references, secretOf);
  if (schema !== undefined) errors.push(...tellable(schema.compiled.check(resolved), references, secretOf));
  if (references.length === 0) {
    const parts = { settings: resolved, errors, secrets: [] };
    return new Effective(parts, resolved, () => canonicalJson(resolved));
  }
  const secrets = [...new Set(references.map(({ name }) => name))];
  const settings = withReferences(resolved, references, ({ name }) => ({ [secretKey]: name }));
  // In the etag a digest of what is stored stands for the value: the etag changes with it, and gives nothing away.
  const digests = new Map(secrets.map((name) => [name, secretOf(name)?.digest ?? ""]));
  const digested = () =>
    withReferences(settings, references, ({ name }) => ({ [secretKey]: name, digest: digests.get(name) }));
  const unopened = unopenedBy(references, secretOf);
  const parts = { settings, errors, secrets, unopened, fault: unresolvable(references, secretOf) };
  return new Effective(parts, resolved, () => canonicalJson(digested()));
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
  const walk = (value: object, pointer: string) => {
    const name = (value as Settings)[secretKey];
    if (typeof name === "string") {
      found.push({ name, pointer, isAlone: Object.keys(value).length === 1 });
      return;
    }
    for (const [key, child] of Object.entries(value)) {
      if (typeof child === "object" && child !== null) walk(child, childPointer(pointer, key));
    }
  };
  walk(root, "");
  return found;
}

/** Puts values in place of references in `settings` itself. */
function resolveReferences(
  settings: Settings,
  references: Reference[],
  secretOf: (name: string) => KnownSecret | undefined,
): FieldError[] {
  const errors: FieldError[] = [];
  for (const { name, pointer, isAlone } of references) {
    const error = (message: string) => errors.push({ pointer, rule: "secret", message });
    const secret = secretOf(name);
    if (!isAlone) error(`refers to secret "${name}" and has other members beside`);
    if (secret === undefined) error(`refers to secret "${name}", which does not exist: PUT /v1/config/secrets/${name}`);
    if (secret?.value !== undefined) setAt(settings, pointer, secret.value);
  }
  return errors;
}

/** A copy with something in place of each secret. */
function withReferences(
  settings: Settings,
  references: Reference[],
  inPlace: (reference: Reference) => unknown,
): Settings {
  const copy = cloneJson(settings) as Settings;
  for (const reference of references) setAt(copy, reference.pointer, inPlace(reference));
  return copy;
}

function setAt(root: Settings, pointer: string, value: unknown): void {
  const keys = pointerKeys(pointer);
  const last = keys.pop();
  if (last === undefined) return;
  const holder = keys.reduce((at, key) => at[key] as Settings, root);
  holder[last] = value;
}

/** Several times as fast as `structuredClone`, which is made for more than JSON. */
function cloneJson(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(cloneJson);
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, cloneJson(child)]));
}

/**
 * What a schema says, without the values of secrets, and without what it says of one that cannot be opened: what stands in
 * its place is a reference, and what it is nobody here knows.
 */
function tellable(
  errors: FieldError[],
  references: Reference[],
  secretOf: (name: string) => KnownSecret | undefined,
): FieldError[] {
  if (references.length === 0) return errors;
  const secret = new Set(references.map(({ pointer }) => pointer));
  const unopened = references.filter(({ name }) => isUnopened(secretOf(name)));
  return errors.flatMap((error) => {
    if (unopened.some(({ pointer }) => `${error.pointer}/`.startsWith(`${pointer}/`))) return [];
    if (!secret.has(error.pointer)) return [error];
    const { value: _, ...told } = error;
    return [told];
  });
}

function isUnopened(secret: KnownSecret | undefined): boolean {
  return secret !== undefined && secret.value === undefined;
}

const cannotOpen =
  "which this site cannot open: MUSTER_SECRET_KEY is not set or another one, or what is stored was tampered with";

function unopenedBy(references: Reference[], secretOf: (name: string) => KnownSecret | undefined): FieldError[] {
  const unopened = references.filter(({ name }) => isUnopened(secretOf(name)));
  return unopened.map(({ name, pointer }) => ({
    pointer,
    rule: "secret",
    message: `refers to secret "${name}", ${cannotOpen}`,
  }));
}

function unresolvable(
  references: Reference[],
  secretOf: (name: string) => KnownSecret | undefined,
): MusterError | undefined {
  const lost = references.find(({ name }) => secretOf(name)?.value === undefined);
  if (lost === undefined) return undefined;
  const why = secretOf(lost.name) === undefined ? "which does not exist" : cannotOpen;
  return new MusterError("refused", `the settings refer at ${lost.pointer} to secret "${lost.name}", ${why}`);
}
