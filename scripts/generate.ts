/**
 * Writes `config-db/generated/types.ts` from `config-db/schemas/`; with `--check` only says whether it is fresh.
 * One root schema is compiled, so that a type which several schemas share is declared once.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { compile } from "json-schema-to-typescript";
import { readSchemas } from "../config-db/validate.ts";

const target = new URL("../config-db/generated/types.ts", import.meta.url);
const schemas = readSchemas();
const { common, ...roots } = schemas;
const definitions: Record<string, unknown> = { ...((common?.$defs as object | undefined) ?? {}) };
for (const schema of Object.values(roots)) definitions[schema.title as string] = { ...schema, $id: undefined };

const root = { title: "Everything", type: "object", additionalProperties: false, definitions };
const text = JSON.stringify(root)
  .replaceAll("common.schema.json#/$defs/", "#/definitions/")
  .replaceAll("#/$defs/", "#/definitions/");
const generated = (
  await compile(JSON.parse(text), "Everything", {
    additionalProperties: false,
    bannerComment: "/* Generated from config-db/schemas by `npm run generate`. Do not edit. */",
    style: { printWidth: 120 },
    unknownAny: true,
    unreachableDefinitions: true,
  })
)
  .replace(/export interface Everything \{\}\n+/, "")
  .replace(
    /\/\*\*\n \* This interface was referenced by `Everything`'s JSON-Schema\n \* via the `definition` "\w+"\.\n \*\/\n/g,
    "",
  )
  .replace(
    /\n \*\n \* This interface was referenced by `Everything`'s JSON-Schema\n \* via the `definition` "\w+"\./g,
    "",
  );

if (process.argv.includes("--check")) {
  const fresh = readFileSync(target, "utf8") === generated;
  if (!fresh) {
    console.error("config-db/generated/types.ts is stale: run `npm run generate` and commit the result.");
    process.exitCode = 1;
  }
} else {
  writeFileSync(target, generated);
  console.log(`wrote ${fileURLToPath(target)}`);
}
