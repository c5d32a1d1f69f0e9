/** JSON Schemas (2020-12) of a type's effective settings: compiled with limits, since anyone may have written them. */
import type { Ajv2020, ValidateFunction } from "ajv/dist/2020.js";
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import { createAjv, fieldErrors } from "../../config-db/validate.ts";
import { jsonErrors } from "../json-rules.ts";
import { bounded } from "./bounded.ts";
import { isObject, type Settings } from "./merge.ts";
import { secretKey } from "./settings-rules.ts";

export const schemaLimits = {
  /** Some 3,000 properties: they compile in a second. */
  bytes: 128 * 1024,
  depth: 64,
  /** Ordinary schemas compile in milliseconds and check in microseconds; what takes this long is refused. */
  compileMs: 3_000,
  checkMs: 1_000,
  /** After one check took too long, for each further one in that turn of the event loop: enough for ordinary ones. */
  checkAgainMs: 10,
} as const;

const dialect = "https://json-schema.org/draft/2020-12/schema";

const ajvOptions = {
  useDefaults: true,
  // Settings may be named like what every object inherits: `constructor`, `valueOf`.
  ownProperties: true,
  validateSchema: false,
  logger: false,
  // Without ajv's optimizer, which takes twice as long to compile as it ever saves here.
  code: { optimize: false },
} as const;

export interface CompiledSchema {
  /** Fills the schema's defaults into `settings` itself. @returns what is wrong with them. */
  check(settings: Settings): FieldError[];
}

/** Checks schemas against the meta-schema; made once, since that one is slow to compile. */
let meta: Ajv2020 | undefined;

/**
 * What is wrong with a schema before it is compiled: that it is none, has another dialect, refers outside itself, is
 * asynchronous or beyond `schemaLimits`.
 */
export function schemaErrors(schema: unknown): FieldError[] {
  if (!isObject(schema)) return [{ pointer: "", rule: "type", message: "a schema must be a JSON object" }];
  const errors = jsonErrors(schema, { depthMax: schemaLimits.depth, bytesMax: schemaLimits.bytes, keyError });
  if (errors.length > 0) return errors;
  if (schema.$schema !== undefined && String(schema.$schema).replace(/#$/, "") !== dialect) {
    const message = `must be ${dialect} or absent`;
    return [{ pointer: "/$schema", rule: "const", message, value: String(schema.$schema).slice(0, 200) }];
  }
  meta ??= createAjv({ logger: false });
  const validate = meta.getSchema(dialect) as ValidateFunction;
  return validate(schema) ? [] : fieldErrors(validate.errors);
}

function keyError(key: string, value: unknown): string | undefined {
  const refers = key === "$ref" || key === "$dynamicRef";
  if (refers && typeof value === "string" && !value.startsWith("#")) {
    return `must start with #: a schema refers only to itself, got "${value.slice(0, 200)}"`;
  }
  // References are found in layers, before defaults are filled in: one in a default would be delivered as it is written.
  if (key === secretKey) return "is not taken: only layers refer to secrets";
  if (key === "$async") return "is not taken: settings are checked at once";
  return undefined;
}

/** @throws MusterError `refused` for a schema that is none, with pointers into it. */
export function compileSchema(schema: unknown): CompiledSchema {
  const errors = schemaErrors(schema);
  if (errors.length > 0) throw notASchema(errors);
  let compiled: { result: ValidateFunction } | undefined;
  try {
    // An instance of its own: two types may use the same `$id`, and a schema that is replaced must be forgotten.
    compiled = bounded(() => createAjv(ajvOptions).compile(schema as object), schemaLimits.compileMs);
  } catch (error) {
    throw notASchema([{ pointer: "", rule: "compile", message: (error as Error).message }]);
  }
  if (compiled === undefined) throw notASchema([tooCostly("compiling it", schemaLimits.compileMs)]);
  return { check: checker(compiled.result, !costly.test(JSON.stringify(schema))) };
}

/**
 * Without these a check takes time in proportion to schema and settings, both of which are bounded, and the guard would
 * cost more than it does. With them it may backtrack (patterns), double at each step (references), or compare all with
 * all (uniqueItems).
 */
const costly = /"(pattern|patternProperties|format|\$ref|\$dynamicRef|uniqueItems)":/;

function checker(validate: ValidateFunction, cheap: boolean): CompiledSchema["check"] {
  // One write may concern a thousand components: each stopped only after `checkMs`, they would hold up everything else.
  let limitMs: number = schemaLimits.checkMs;
  return (settings) => {
    if (cheap) return validate(settings) ? [] : fieldErrors(validate.errors);
    try {
      const outcome = bounded(() => validate(settings), limitMs);
      if (outcome?.result === true) return [];
      if (outcome !== undefined) return fieldErrors(validate.errors);
      limitMs = schemaLimits.checkAgainMs;
      setImmediate(() => {
        limitMs = schemaLimits.checkMs;
      });
      return [tooCostly("checking settings against it", schemaLimits.checkMs)];
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return [{ pointer: "", rule: "recursion", message: "the schema refers to itself without end" }];
    }
  };
}

function tooCostly(what: string, limitMs: number): FieldError {
  return { pointer: "", rule: "time", message: `the schema is too costly: ${what} takes over ${limitMs} ms` };
}

function notASchema(errors: FieldError[]): MusterError {
  const told = errors
    .slice(0, 3)
    .map(({ pointer, message }) => `${pointer === "" ? "it" : pointer.slice(0, 200)} ${message}`);
  return new MusterError("refused", `this is not a JSON Schema (2020-12) that can be used: ${told.join("; ")}`, {
    errors,
  });
}
