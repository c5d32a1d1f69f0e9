/** `muster dead-letters`: messages that nobody could handle, and another try. */
import { type Command, Option } from "commander";
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
    matching(group.command("redrive"))
      .description("Send dead letters to their targets again.")
      .action(cli.does<[string[]], Which>((session, [ids], which) => settle(session, "redrive", ids, which), next)),
    { line: "muster dead-letters redrive --to collector-1" },
    { line: "muster dead-letters redrive --all" },
  );

  withExamples(
    matching(group.command("discard"))
      .description("Throw dead letters away.")
      .action(cli.does<[string[]], Which>((session, [ids], which) => settle(session, "discard", ids, which), next)),
    { line: "muster dead-letters discard $(muster dead-letters ls -o json | jq -r '.deadLetters[0].id')" },
    { line: "muster dead-letters discard --name recalibrate --state expired" },
  );
}

interface Which {
  all?: true;
  to?: string;
  from?: string;
  name?: string;
  state?: string;
}

function matching(command: Command): Command {
  return command
    .argument("[dead-letter...]", "their ids")
    .option("--to <component>", "those to this component, or to any:<type>")
    .option("--from <component>", "those from this component")
    .option("--name <name>", "those of this name")
    .addOption(new Option("--state <state>", "those that ended so").choices(["failed", "expired", "dead-lettered"]))
    .option("--all", "all of them");
}

async function settle(
  session: Session,
  verb: "redrive" | "discard",
  ids: string[],
  { all, ...match }: Which,
): Promise<void> {
  const isMatched = Object.keys(match).length > 0;
  if ([ids.length > 0, all === true, isMatched].filter(Boolean).length !== 1) {
    throw new MusterError(
      "invalid-request",
      "which ones? Give ids, or what they have in common (--to, --from, --name, --state), or --all",
    );
  }
  const done = verb === "redrive" ? "sent again" : "thrown away";
  if (ids.length === 0) {
    const body = isMatched ? { match } : {};
    const answer = await session.bridge.ask<Record<string, unknown>>({
      method: "POST",
      path: `/v1/dead-letters/${verb}`,
      body,
    });
    const amount = Object.values(answer.body ?? {}).find((value) => typeof value === "number");
    await session.print(answer.body ?? {}, () =>
      amount === undefined ? done : `${count(amount as number, "message")} ${done}`,
    );
    return;
  }
  for (const id of ids) {
    if (verb === "discard") await session.bridge.ask({ method: "DELETE", path: path`/v1/dead-letters/${id}` });
    else await session.bridge.ask({ method: "POST", path: path`/v1/dead-letters/${id}/redrive` });
  }
  await session.print(
    { [verb === "redrive" ? "redriven" : "discarded"]: ids.length },
    () => `${count(ids.length, "message")} ${done}`,
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
