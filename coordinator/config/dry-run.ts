/** What a write would do, without doing it. */
import { type FieldError, isMusterError } from "../../config-db/errors.ts";
import type { ValidateRequest } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { type EffectiveSettings, newErrors } from "./effective-settings.ts";
import { type JsonPatch, jsonPatch } from "./json-patch.ts";
import { impactOf } from "./judgement.ts";
import type { Settings } from "./merge.ts";
import { compileSchema } from "./schema.ts";
import { settingsErrors } from "./settings-rules.ts";

export interface DryRun {
  /** Whether the write would be taken. */
  valid: boolean;
  /** What is wrong with the settings or the schema by itself. */
  errors?: FieldError[];
  /** The components that it would change or break, the broken ones first; at most `componentsMax`. */
  components: { id: string; diff: JsonPatch; errors: FieldError[] }[];
  /** How many there are. */
  total: number;
}

const componentsMax = 1_000;

export function dryRun(effective: EffectiveSettings, request: ValidateRequest): DryRun {
  const errors = "layer" in request ? settingsErrors(request.settings) : compileErrors(request.schema);
  if (errors.length > 0) return { valid: false, errors, components: [], total: 0 };
  const tried =
    "layer" in request
      ? { id: documentId.layer(request.layer as LayerName), content: request.settings }
      : { id: documentId.schema(request.type), content: request.schema };
  const touched = impactOf(effective, tried)
    .map((impact) => ({ ...impact, errors: newErrors(impact) }))
    .filter(({ before, after, errors: broken }) => before.etag !== after.etag || broken.length > 0)
    .sort((a, b) => Math.sign(b.errors.length) - Math.sign(a.errors.length) || (a.id < b.id ? -1 : 1));
  // Components that share their settings share the comparison.
  const diffs = new Map<Settings, JsonPatch>();
  return {
    valid: touched.every(({ errors: broken }) => broken.length === 0),
    components: touched.slice(0, componentsMax).map(({ id, after, errors: broken }) => {
      const diff = diffs.get(after.settings) ?? jsonPatch(effective.get(id).settings, after.settings);
      diffs.set(after.settings, diff);
      return { id, diff, errors: broken.map(({ component: _, ...error }) => error) };
    }),
    total: touched.length,
  };
}

function compileErrors(schema: unknown): FieldError[] {
  try {
    compileSchema(schema);
    return [];
  } catch (error) {
    if (isMusterError(error)) return error.errors ?? [];
    throw error;
  }
}
