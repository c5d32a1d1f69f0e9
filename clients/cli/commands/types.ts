/** `muster types`: the settings of a type as TypeScript, from its schema. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { settingsTypes } from "../settings-types.ts";

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
          {
            "not-found": "That type has no schema to make types of: muster schema set <type> -f <file>",
            refused:
              "The schema is in force all the same. Write its types by hand, or say the same in it without that.",
          },
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
  const banner = `/** Settings of the type ${type}. Made by \`muster types ${type}\` from its schema: do not edit. */`;
  try {
    return await settingsTypes(schema, name, banner);
  } catch (error) {
    throw new MusterError("refused", `the schema of ${type} cannot be made into types: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
