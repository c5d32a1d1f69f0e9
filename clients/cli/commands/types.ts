/** `muster types`: the settings of a type as TypeScript, from its schema. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";

export function typesCommands(program: Command, cli: Invocation): void {
  withExamples(
    program
      .command("types")
      .summary("make TypeScript types of a type's schema")
      .description("Write the settings of a type as a TypeScript interface, made from its schema.")
      .argument("<type>", "such as collector")
      .option("--name <name>", "the interface's name; else the type's, as in CollectorSettings")
      .action(
        cli.does<[string], { name?: string }>(
          async (session, [type], { name = interfaceName(type) }) => {
            if (!/^[A-Za-z_$][\w$]*$/.test(name)) {
              throw new MusterError("invalid-request", `"${name}" cannot be the name of an interface`);
            }
            const { body } = await session.bridge.ask<Record<string, unknown>>({
              path: path`/v1/config/schemas/${type}`,
            });
            const text = await typesOf(body, name, type);
            if (session.json) await session.print({ type, name, typescript: text }, () => "");
            else await session.printRaw(text);
          },
          { "not-found": "That type has no schema to make types of: muster schema set <type> -f <file>" },
        ),
      ),
    { line: "muster types collector > collector-settings.ts" },
    { line: "muster types collector --name Collector" },
  );
}

/** `heat-meter` → `HeatMeterSettings`. */
export function interfaceName(type: string): string {
  const words = type.split(/[^A-Za-z0-9]+/).filter((word) => word !== "");
  const name = words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("");
  return `${/^\d/.test(name) ? "_" : ""}${name}Settings`;
}

async function typesOf(schema: Record<string, unknown>, name: string, type: string): Promise<string> {
  // Half a second to load, and this is the only command that needs it.
  const { compile } = await import("json-schema-to-typescript");
  const banner = `/** Settings of the type ${type}. Made by \`muster types ${type}\` from its schema: do not edit. */`;
  try {
    // The title would win over the name.
    return await compile({ ...filledIn(schema), title: name, $id: undefined } as object, name, {
      // Settings that the schema does not name are allowed, but no program reads what it has no name for.
      additionalProperties: false,
      bannerComment: banner,
      unknownAny: true,
      format: true,
      style: { printWidth: 120 },
      $refOptions: { resolve: { file: false, http: false } },
    });
  } catch (error) {
    throw new MusterError("refused", `the schema of ${type} cannot be made into types: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

type Schema = Record<string, unknown>;

/** Where a setting has a default, the coordinator fills it in: whoever reads effective settings always finds it. */
export function filledIn(schema: unknown): Schema {
  if (typeof schema !== "object" || schema === null) return schema as unknown as Schema;
  const { properties, items, $defs, ...rest } = schema as Record<string, Schema | undefined>;
  const each = (schemas: Schema) =>
    Object.fromEntries(Object.entries(schemas).map(([key, value]) => [key, filledIn(value)]));
  const defaulted = Object.entries(properties ?? {}).flatMap(([key, value]) =>
    typeof value === "object" && value !== null && "default" in value ? [key] : [],
  );
  const required = [...new Set([...((rest.required as string[] | undefined) ?? []), ...defaulted])];
  return {
    ...rest,
    ...(properties === undefined ? {} : { properties: each(properties) }),
    ...(items === undefined ? {} : { items: filledIn(items) }),
    ...($defs === undefined ? {} : { $defs: each($defs) }),
    ...(required.length === 0 ? {} : { required }),
  };
}
