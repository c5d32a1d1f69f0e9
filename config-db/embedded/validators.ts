/** `validate_doc_update`: the functions of a database's design documents that every write has to pass. */
import type { PouchDB } from "pouchdb";
import { CouchError } from "./couch-error.ts";
import type { UserContext } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { limits } from "./limits.ts";
import { ownGuard } from "./own-guards.ts";
import { type Callable, compile, type Outcome } from "./sandbox.ts";
import { inWireOrder } from "./wire-order.ts";

/** A document about to be written, beside the revision that it replaces. */
export interface Draft {
  doc: PouchDB.Doc;
  old: PouchDB.Doc | null;
}

export interface WriteContext {
  user: UserContext & { db: string };
  security: JsonObject;
}

interface Validator {
  design: PouchDB.Doc;
  function: Callable;
  isOwn: boolean;
}

export class Validators {
  #loaded: Promise<Validator[]> | undefined;

  /** A design document was written: the next write reads them again. */
  forget(): void {
    this.#loaded = undefined;
  }

  /** Whether there are any, and whether any of them looks at the revision that a document replaces: Muster's own do not. */
  async about(pouch: PouchDB.Database): Promise<{ areAny: boolean; readOld: boolean }> {
    const loaded = await this.#load(pouch);
    return { areAny: loaded.length > 0, readOld: loaded.some((validator) => !validator.isOwn) };
  }

  /** For each draft the refusal of the first function that refuses it, undefined where all agree. */
  async judge(pouch: PouchDB.Database, drafts: Draft[], context: WriteContext): Promise<(CouchError | undefined)[]> {
    const refusals: (CouchError | undefined)[] = drafts.map(() => undefined);
    if (drafts.length === 0) return refusals;
    const calls = drafts.map(({ doc, old }) => [bare(doc), old && bare(old), context.user, context.security]);
    for (const validator of await this.#load(pouch)) {
      const outcomes = validator.function.call(calls, { timeoutMs: limits.designFunctionMs, self: validator.design });
      for (const [index, outcome] of outcomes.entries()) {
        refusals[index] ??= refusalOf(outcome, validator.design._id);
      }
    }
    return refusals;
  }

  #load(pouch: PouchDB.Database): Promise<Validator[]> {
    if (this.#loaded === undefined) {
      const loading = load(pouch);
      this.#loaded = loading;
      loading.catch(() => {
        if (this.#loaded === loading) this.#loaded = undefined;
      });
    }
    return this.#loaded;
  }
}

async function load(pouch: PouchDB.Database): Promise<Validator[]> {
  const { rows } = await pouch.allDocs({ startkey: "_design/", endkey: "_design0", include_docs: true });
  return rows.flatMap(({ doc: design }) => {
    if (!design || !isJavaScript(design) || typeof design.validate_doc_update !== "string") return [];
    const own = ownGuard(design.validate_doc_update);
    return [{ design, function: own ?? compile(design.validate_doc_update), isOwn: own !== undefined }];
  });
}

/** A document as functions see it: attachments by name and type, without their data. */
function bare(doc: PouchDB.Doc): JsonObject {
  if (!isObject(doc._attachments)) return inWireOrder(doc);
  const stubs = Object.entries(doc._attachments).map(([name, attachment]) => {
    const { data: _data, ...rest } = attachment as JsonObject;
    return [name, { ...rest, stub: true }];
  });
  return inWireOrder({ ...doc, _attachments: Object.fromEntries(stubs) });
}

function refusalOf(outcome: Outcome, design: string): CouchError | undefined {
  if (outcome.kind === "returned") return undefined;
  if (outcome.kind === "timedOut") {
    const limit = `${limits.designFunctionMs} ms`;
    return new CouchError(
      500,
      "timeout",
      `validate_doc_update of ${design} ran longer than ${limit}; nothing was written`,
    );
  }
  const { forbidden, unauthorized } = outcome.thrown;
  if (forbidden !== undefined) return new CouchError(403, "forbidden", asText(forbidden));
  if (unauthorized !== undefined) return new CouchError(401, "unauthorized", asText(unauthorized));
  // CouchDB answers 500 here, on which a replicator tries again for ever. A document that breaks the function is refused.
  return new CouchError(403, "forbidden", `validate_doc_update of ${design} threw ${outcome.message}`);
}

const asText = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));

const isJavaScript = (design: JsonObject) => (design.language ?? "javascript") === "javascript";

/**
 * Refuses a design document whose functions do not compile. CouchDB looks at views alone; here a broken
 * validate_doc_update is refused, too, since it would refuse every later write.
 * @throws CouchError 400
 */
export function checkDesign(doc: PouchDB.Doc): void {
  if (doc._deleted === true) return;
  const { views, filters, validate_doc_update: validate } = doc;
  for (const [name, value] of Object.entries({ views, filters, options: doc.options })) {
    if (value !== undefined && !isObject(value)) throw invalidDesign(`\`${name}\` field must be an object`);
  }
  if (validate !== undefined && typeof validate !== "string") {
    throw invalidDesign("`validate_doc_update` field must be a string");
  }
  if (!isJavaScript(doc)) return;
  for (const [name, view] of Object.entries<unknown>(views ?? {})) {
    if (name === "lib") continue;
    if (!isObject(view)) throw invalidDesign(`View ${name} must be an object`);
    checkFunction(view.map, `map function in the '${name}' view`);
    if (view.reduce !== undefined && !/^_/.test(String(view.reduce))) {
      checkFunction(view.reduce, `reduce function in the '${name}' view`);
    }
  }
  if (validate !== undefined) checkFunction(validate, "validate_doc_update function");
}

function checkFunction(source: unknown, what: string): void {
  if (typeof source !== "string") throw invalidDesign(`The ${what} must be a string`);
  try {
    compile(source);
  } catch (error) {
    throw new CouchError(400, "compilation_error", `Compilation of the ${what} failed: ${(error as Error).message}`);
  }
}

function invalidDesign(reason: string): CouchError {
  return new CouchError(400, "invalid_design_doc", reason);
}
