/** `muster secrets`: values that settings name and only their component gets to see. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import { readText } from "../file-input.ts";
import type { Invocation } from "../invocation.ts";
import { type Column, moment, table } from "../table.ts";

interface Secret {
  name: string;
  version: number;
  changedAt?: string;
  changedBy?: string;
}

const next = { "not-found": "See what there is with: muster secrets ls" };

export function secretCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("secrets")
    .alias("secret")
    .summary("keep values that only their component sees")
    .description('Keep values that settings use as {"$secret": "name"} and that only their component gets to see.');

  withExamples(
    group
      .command("ls")
      .description("List secrets; their values are never shown.")
      .action(
        cli.does(async (session) => {
          const { body } = await session.bridge.ask<{ secrets: Secret[] }>({ path: "/v1/config/secrets" });
          const shape: Column<Secret>[] = [
            { title: "NAME", of: ({ name }) => name },
            { title: "VERSION", of: ({ version }) => version, align: "right" },
            { title: "CHANGED", of: ({ changedAt }) => moment(changedAt) },
            { title: "BY", of: ({ changedBy }) => changedBy, optional: true },
          ];
          await session.print(body, (style) =>
            body.secrets.length === 0 ? style.dim("no secrets") : table(shape, body.secrets, style, session.columns),
          );
        }),
      ),
    { line: "muster secrets ls" },
  );

  withExamples(
    group
      .command("set")
      .description("Set a secret. Its value is read from a file or standard input: the command line is seen by others.")
      .argument("<secret>", "its name")
      .requiredOption(
        "-f, --file <file>",
        "where the value is; - is standard input. One newline at its end is left out",
      )
      .action(
        cli.does<[string], { file: string }>(async (session, [name], { file }) => {
          const value = (await readText(session.terminal, file)).replace(/\r?\n$/, "");
          if (value === "") throw new MusterError("invalid-request", `${file} is empty: a secret must have a value`);
          const { body } = await session.bridge.ask({
            method: "PUT",
            path: path`/v1/config/secrets/${name}`,
            body: { value },
          });
          await session.print(body ?? { name }, (style) => `secret ${style.bold(name)} is set`);
        }, next),
      ),
    { line: "printf %s hunter2 | muster secrets set db-password -f -" },
    { line: "muster secrets set db-password -f password.txt" },
  );

  withExamples(
    group
      .command("rm")
      .description("Delete a secret.")
      .argument("<secret>", "its name")
      .action(
        cli.does<[string]>(async (session, [name]) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/config/secrets/${name}` });
          await session.print({ name, deleted: true }, () => `secret ${name} is deleted`);
        }, next),
      ),
    { line: "muster secrets rm db-password" },
  );
}
