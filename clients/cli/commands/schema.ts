/** `muster schema`: what the settings of a type must look like. */
import type { Command } from "commander";
import { path } from "../bridge.ts";
import { type Validation, validationText } from "../changes.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import { readText } from "../file-input.ts";
import type { Invocation } from "../invocation.ts";
import { parseObject } from "../proposal.ts";
import { coloredJson, type Style } from "../style.ts";
import { type Column, moment, table } from "../table.ts";

interface Listed {
  type: string;
  version: number;
  changedAt: string;
  changedBy: string;
  site: string;
}

const next = {
  "not-found": "That type has no schema: any settings are taken. Set one with: muster schema set <type> -f <file>",
  refused: "Nothing was written. Settings that stand would break it: see muster schema set <type> -f <file> --dry-run",
};

export function schemaCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("schema")
    .summary("say what a type's settings must look like")
    .description("Say what the settings of a type must look like (JSON Schema 2020-12).");

  withExamples(
    group
      .command("ls")
      .description("List the types that have a schema.")
      .action(
        cli.does(async (session) => {
          const { body } = await session.bridge.ask<{ schemas: Listed[] }>({ path: "/v1/config/schemas" });
          await session.print(body, (style) => listText(body.schemas, style, session.columns));
        }),
      ),
    { line: "muster schema ls" },
  );

  withExamples(
    group
      .command("get")
      .description("Show the schema of a type.")
      .argument("<type>", "such as collector")
      .action(
        cli.does<[string]>(async (session, [type]) => {
          const { body } = await session.bridge.ask({ path: path`/v1/config/schemas/${type}` });
          await session.print(body, (style) => coloredJson(body, style));
        }, next),
      ),
    { line: "muster schema get collector" },
    { line: "muster schema get collector -o json > collector.schema.json" },
  );

  withExamples(
    group
      .command("set")
      .description("Set the schema of a type; refused when settings that stand would break it.")
      .argument("<type>", "such as collector")
      .requiredOption("-f, --file <file>", "the JSON Schema; - is standard input")
      .option("--dry-run", "only say what it would break; ends with 1 when it would be refused")
      .option("--if-match <etag>", "only if the schema is still as it was read")
      .action(
        cli.does<[string], { file: string; dryRun?: true; ifMatch?: string }>(
          async (session, [type], { file, dryRun, ifMatch }): Promise<ExitCode> => {
            const schema = parseObject(await readText(session.terminal, file), file);
            if (dryRun) {
              const request = { method: "POST", path: "/v1/config/validate", body: { type, schema } } as const;
              const { body } = await session.bridge.ask<Validation>(request);
              const verdict = body.valid ? `all settings of ${type} fit it\n` : "";
              await session.print(body, (style) => verdict + validationText(body, style));
              return body.valid ? exitCodes.ok : exitCodes.failed;
            }
            const request = { method: "PUT", path: path`/v1/config/schemas/${type}`, body: schema, ifMatch } as const;
            const { body } = await session.bridge.ask(request);
            await session.print(body ?? schema, () => `the schema of ${type} is set`);
            return exitCodes.ok;
          },
          next,
        ),
      ),
    { line: "muster schema set collector -f collector.schema.json" },
    { line: "muster schema set collector -f collector.schema.json --dry-run", does: "what would it break?" },
  );

  withExamples(
    group
      .command("rm")
      .description("Delete the schema of a type: any settings are taken then.")
      .argument("<type>", "such as collector")
      .action(
        cli.does<[string]>(async (session, [type]) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/config/schemas/${type}` });
          await session.print({ type, deleted: true }, () => `the schema of ${type} is deleted`);
        }, next),
      ),
    { line: "muster schema rm probe" },
  );
}

function listText(schemas: Listed[], style: Style, columns?: number): string {
  if (schemas.length === 0) return style.dim("no schemas: any settings are taken");
  const shape: Column<Listed>[] = [
    { title: "TYPE", of: ({ type }) => type, paint: style.bold },
    { title: "VERSION", of: ({ version }) => version, align: "right" },
    { title: "CHANGED", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "BY", of: ({ changedBy }) => changedBy },
    { title: "SITE", of: ({ site }) => site },
  ];
  return table(shape, schemas, style, columns);
}
