/** Checks documents and messages against the schemas in `schemas/`: the boundary, after which types are trusted. */
import { readdirSync, readFileSync } from "node:fs";
import { Ajv2020, type ErrorObject, type Options, type ValidateFunction } from "ajv/dist/2020.js";
import ajvFormats from "ajv-formats";
import { type FieldError, MusterError } from "./errors.ts";
import type * as generated from "./generated/types.ts";

/** The schemas by file name, and the type that each describes. */
export interface SchemaTypes {
  "layer-document": generated.LayerDocument;
  "history-document": generated.HistoryDocument;
  "schema-document": generated.SchemaDocument;
  "candidate-document": generated.CandidateDocument;
  "secret-document": generated.SecretDocument;
  "fault-document": generated.FaultDocument;
  "objection-document": generated.ObjectionDocument;
  "component-document": generated.ComponentDocument;
  "site-document": generated.SiteDocument;
  registration: generated.Registration;
  renewal: generated.Renewal;
  "layer-write": generated.LayerWrite;
  "rollback-request": generated.RollbackRequest;
  "candidate-write": generated.CandidateWrite;
  "promotion-request": generated.PromotionRequest;
  "schema-write": generated.SchemaWrite;
  "secret-write": generated.SecretWrite;
  "validate-request": generated.ValidateRequest;
  "config-status-report": generated.ConfigStatusReport;
  "command-request": generated.CommandRequest;
  "request-request": generated.RequestRequest;
  "event-request": generated.EventRequest;
  "delivery-nack": generated.DeliveryNack;
  "delivery-reply": generated.DeliveryReply;
  "signal-message": generated.SignalMessage;
  "renewal-message": generated.RenewalMessage;
  "conflict-document": generated.ConflictDocument;
  "conflict-resolution": generated.ConflictResolution;
  "site-peer": generated.SitePeer;
  "command-document": generated.CommandDocument;
  "outcome-message": generated.OutcomeMessage;
  "redrive-request": generated.RedriveRequest;
  problem: generated.Problem;
}
export type SchemaName = keyof SchemaTypes;

const schemaDirectory = new URL("./schemas/", import.meta.url);

/** All schemas as parsed JSON, by name without ending: for validation, for the type generator, for OpenAPI. */
export function readSchemas(): Record<string, Record<string, unknown>> {
  const files = readdirSync(schemaDirectory).filter((file) => file.endsWith(".schema.json"));
  return Object.fromEntries(
    files
      .sort()
      .map((file) => [
        file.slice(0, -".schema.json".length),
        JSON.parse(readFileSync(new URL(file, schemaDirectory), "utf8")),
      ]),
  );
}

/** An ajv with the formats that Muster's schemas use. `verbose` gives errors the offending value. */
export function createAjv(options: Options = {}): Ajv2020 {
  const ajv = new Ajv2020({ allErrors: true, verbose: true, strict: false, ...options });
  ajvFormats.default(ajv);
  return ajv;
}

let compiled: Map<string, ValidateFunction> | undefined;

function validator(name: SchemaName): ValidateFunction {
  if (compiled === undefined) {
    const ajv = createAjv();
    const schemas = readSchemas();
    ajv.addSchema(Object.values(schemas));
    compiled = new Map(
      Object.keys(schemas).map((key) => [key, ajv.getSchema(`${key}.schema.json`) as ValidateFunction]),
    );
  }
  const found = compiled.get(name);
  if (found === undefined) throw new Error(`no schema ${name}`);
  return found;
}

/** At most this many errors are told at once: a thousand wrong array items must not make a megabyte of answer. */
const errorsMax = 20;

/** What ajv found, as field errors that say what would be right. The value of a `writeOnly` field is told nobody. */
export function fieldErrors(errors: ErrorObject[] | null | undefined): FieldError[] {
  return (errors ?? []).slice(0, errorsMax).map((error) => {
    const field: FieldError = { pointer: error.instancePath, rule: error.keyword, message: describe(error) };
    if (isShort(error.data) && error.parentSchema?.writeOnly !== true) field.value = error.data;
    return field;
  });
}

/** Every failed branch of a `oneOf` complains of the fields of the others; the `oneOf` itself says it once. */
function isBranchNoise({ keyword, schemaPath }: ErrorObject): boolean {
  return schemaPath.includes("/oneOf/") && (keyword === "required" || keyword === "additionalProperties");
}

function describe(error: ErrorObject): string {
  const { keyword, params } = error;
  if (keyword === "oneOf") {
    const branches = (error.schema as { required?: string[] }[]).map(
      (branch) => `{${(branch.required ?? []).join(", ")}}`,
    );
    return `must be exactly one of ${branches.join(", ")}`;
  }
  if (keyword === "not")
    return `must not have ${((error.schema as { required?: string[] }).required ?? []).join(" together with ")}`;
  if (keyword === "additionalProperties") {
    const known = Object.keys((error.parentSchema?.properties as object | undefined) ?? {});
    return `unknown field "${params.additionalProperty}"${known.length > 0 ? `; known are ${known.join(", ")}` : ""}`;
  }
  if (keyword === "enum")
    return `must be one of ${(params.allowedValues as unknown[]).map((v) => JSON.stringify(v)).join(", ")}`;
  if (keyword === "const") return `must be ${JSON.stringify(params.allowedValue)}`;
  return error.message ?? keyword;
}

function isShort(value: unknown): boolean {
  if (typeof value === "string") return value.length <= 200;
  return value === null || typeof value !== "object";
}

/** @returns what is wrong with `input`; empty when it fits. */
export function check(name: SchemaName, input: unknown): FieldError[] {
  const validate = validator(name);
  if (validate(input)) return [];
  const errors = validate.errors ?? [];
  const told = errors.filter((error) => !isBranchNoise(error));
  return fieldErrors(told.length > 0 ? told : errors);
}

/**
 * Gives `input` its type after checking it.
 * @throws MusterError `invalid-request` that names each field, the rule and the value.
 */
export function parse<Name extends SchemaName>(name: Name, input: unknown): SchemaTypes[Name] {
  const errors = check(name, input);
  if (errors.length === 0) return input as SchemaTypes[Name];
  const told = errors.slice(0, 5).map(({ pointer, message, value }) => {
    const got = value === undefined ? "" : `, got ${JSON.stringify(value)}`;
    return `${pointer === "" ? "the body" : pointer} ${message}${got}`;
  });
  throw new MusterError("invalid-request", told.join("; "), { errors });
}
