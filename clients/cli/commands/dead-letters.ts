/** `muster dead-letters`: messages that nobody could handle, and another try. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { coloredJson, plain, type Style, short } from "../style.ts";
import { type Column, count, details, moment, table } from "../table.ts";
import { targetText } from "../values.ts";

interface DeadLetter {
  id: string;
  reason: string;
  from?: string;
  to?: unknown;
  name?: string;
  at?: string;
  body?: unknown;
  [field: string]: unknown;
}

const next = { "not-found": "See which there are with: muster dead-letters ls" };

export function deadLetterCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("dead-letters")
    .alias("dead-letter")
    .summary("see and redrive what nobody could handle")
    .description("See messages that nobody could handle, try them again, or throw them away.");

  withExamples(
    group
      .command("ls")
      .description("List dead letters.")
      .action(
        cli.does(async (session) => {
          const deadLetters = await readDeadLetters(session);
          await session.print({ deadLetters }, (style) => listText(deadLetters, style, session.columns));
        }),
      ),
    { line: "muster dead-letters ls" },
  );

  withExamples(
    group
      .command("show")
      .description("Show a dead letter with its body.")
      .argument("<dead-letter>", "its id")
      .action(
        cli.does<[string]>(async (session, [id]) => {
          const letter = (await readDeadLetters(session)).find((one) => one.id === id);
          if (letter === undefined) throw new MusterError("not-found", `there is no dead letter ${id}`);
          await session.print(letter, (style) => showText(letter, style));
        }, next),
      ),
    { line: "muster dead-letters show $(muster dead-letters ls -o json | jq -r '.deadLetters[0].id')" },
  );

  withExamples(
    group
      .command("redrive")
      .description("Send dead letters to their targets again.")
      .argument("[dead-letter...]", "their ids")
      .option("--all", "all of them")
      .option("--match <text>", "all to this target or of this name")
      .action(
        cli.does<[string[]], { all?: true; match?: string }>(async (session, [ids], { all, match }) => {
          if ([ids.length > 0, all === true, match !== undefined].filter(Boolean).length !== 1) {
            throw new MusterError("invalid-request", "which ones? Give ids, or --match, or --all");
          }
          if (ids.length === 0) {
            const body = match === undefined ? {} : { match };
            const answer = await session.bridge.ask<{ redriven?: number }>({
              method: "POST",
              path: "/v1/dead-letters/redrive",
              body,
            });
            const redriven = answer.body?.redriven;
            await session.print(answer.body ?? {}, () =>
              redriven === undefined ? "sent again" : `${count(redriven, "message")} sent again`,
            );
            return;
          }
          for (const id of ids)
            await session.bridge.ask({ method: "POST", path: path`/v1/dead-letters/${id}/redrive` });
          await session.print({ redriven: ids.length }, () => `${count(ids.length, "message")} sent again`);
        }, next),
      ),
    { line: "muster dead-letters redrive --match collector-1" },
    { line: "muster dead-letters redrive --all" },
  );

  withExamples(
    group
      .command("discard")
      .description("Throw dead letters away.")
      .argument("<dead-letter...>", "their ids")
      .action(
        cli.does<[string[]]>(async (session, [ids]) => {
          for (const id of ids) await session.bridge.ask({ method: "DELETE", path: path`/v1/dead-letters/${id}` });
          await session.print({ discarded: ids.length }, () => `${count(ids.length, "message")} thrown away`);
        }, next),
      ),
    { line: "muster dead-letters discard $(muster dead-letters ls -o json | jq -r '.deadLetters[].id')" },
  );
}

export async function readDeadLetters(session: Session): Promise<DeadLetter[]> {
  const found: DeadLetter[] = [];
  let cursor: string | undefined;
  do {
    const { body } = await session.bridge.ask<{ deadLetters: DeadLetter[]; cursor?: string }>({
      path: "/v1/dead-letters",
      query: { cursor },
    });
    found.push(...body.deadLetters);
    cursor = body.cursor;
  } while (cursor !== undefined);
  return found;
}

function toText(to: unknown): string {
  if (typeof to !== "object" || to === null) return to === undefined ? "" : String(to);
  return targetText(to as Parameters<typeof targetText>[0]);
}

function listText(letters: DeadLetter[], style: Style, columns?: number): string {
  if (letters.length === 0) return style.dim("no dead letters");
  const shape: Column<DeadLetter>[] = [
    { title: "ID", of: ({ id }) => id },
    { title: "AT", of: ({ at }) => moment(at), paint: style.dim },
    { title: "TO", of: ({ to }) => toText(to) },
    { title: "NAME", of: ({ name }) => name, paint: style.bold },
    { title: "FROM", of: ({ from }) => from },
    { title: "REASON", of: ({ reason }) => reason, paint: style.red },
  ];
  return `${table(shape, letters, style, columns)}\n${style.dim(count(letters.length, "dead letter"))}`;
}

function showText({ id, reason, from, to, name, at, body, ...rest }: DeadLetter, style: Style): string {
  const head = details(
    [
      ["id", id],
      ["name", plain(name ?? "")],
      ["to", plain(toText(to))],
      ["from", plain(from ?? "")],
      ["at", moment(at)],
      ["reason", style.red(plain(reason))],
      ...Object.entries(rest).map(([key, value]): [string, string] => [
        plain(key),
        typeof value === "string" ? plain(value) : short(value),
      ]),
    ],
    style,
  );
  return body === undefined ? head : `${head}\n${coloredJson(body, style)}`;
}
