/** `muster dead-letters`: messages that nobody could handle, and another try. */
import { type Command, Option } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { limits } from "../../../config-db/limits.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { coloredJson, plain, type Style, short } from "../style.ts";
import { type Column, count, details, moment, table } from "../table.ts";

interface DeadLetter {
  id: string;
  state: string;
  reason: string;
  at: string;
  /** The component whose message it was, or `any:<type>`; absent where the message does not tell. */
  to?: string;
  from?: string;
  name?: string;
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
    matching(group.command("ls"))
      .description("List dead letters, the oldest first.")
      .action(
        cli.does<[], Match>(async (session, _none, match) => {
          const deadLetters = await readDeadLetters(session, match);
          await session.print({ deadLetters }, (style) => listText(deadLetters, style, session.columns));
        }),
      ),
    { line: "muster dead-letters ls" },
    { line: "muster dead-letters ls --to collector-1 --state failed" },
  );

  withExamples(
    group
      .command("show")
      .description("Show a dead letter with its body.")
      .argument("<dead-letter>", "its id")
      .action(
        cli.does<[string]>(async (session, [id]) => {
          const { body } = await session.bridge.ask<DeadLetter>({ path: path`/v1/dead-letters/${id}` });
          await session.print(body, (style) => showText(body, style));
        }, next),
      ),
    { line: "muster dead-letters show $(muster dead-letters ls -o json | jq -r '.deadLetters[0].id')" },
  );

  withExamples(
    choosing(group.command("redrive"))
      .description("Send dead letters to their targets again.")
      .action(
        cli.does<[string[]], Match & { all?: true }>(
          (session, [ids], which) => settle(session, "redrive", ids, which),
          next,
        ),
      ),
    { line: "muster dead-letters redrive --to collector-1" },
    { line: "muster dead-letters redrive --all" },
  );

  withExamples(
    choosing(group.command("discard"))
      .description("Throw dead letters away.")
      .action(
        cli.does<[string[]], Match & { all?: true }>(
          (session, [ids], which) => settle(session, "discard", ids, which),
          next,
        ),
      ),
    { line: "muster dead-letters discard $(muster dead-letters ls -o json | jq -r '.deadLetters[0].id')" },
    { line: "muster dead-letters discard --name recalibrate --state expired" },
  );
}

interface Match {
  to?: string;
  from?: string;
  name?: string;
  state?: string;
}

function matching(command: Command): Command {
  return command
    .option("--to <component>", "those to this component, or to any:<type>")
    .option("--from <component>", "those from this component")
    .option("--name <name>", "those of this name")
    .addOption(new Option("--state <state>", "those that ended so").choices(["failed", "expired", "dead-lettered"]));
}

function choosing(command: Command): Command {
  return matching(command.argument("[dead-letter...]", "their ids")).option("--all", "all of them");
}

const verbs = {
  redrive: { counter: "redriven", done: "sent again" },
  discard: { counter: "discarded", done: "thrown away" },
} as const;

async function settle(
  session: Session,
  verb: keyof typeof verbs,
  ids: string[],
  { all, ...match }: Match & { all?: true },
): Promise<ExitCode> {
  const isMatched = Object.keys(match).length > 0;
  if ([ids.length > 0, all === true, isMatched].filter(Boolean).length !== 1) {
    const told = "which ones? Give ids, or what they have in common (--to, --from, --name, --state), or --all";
    throw new MusterError("invalid-request", told);
  }
  const { counter, done } = verbs[verb];
  const sum =
    ids.length > 0
      ? await settleEach(session, verb, ids)
      : await settleMatching(session, verb, isMatched ? { match } : {});
  const { settled, refused, refusals } = sum;
  await session.print({ [counter]: settled, refused, refusals: [...refusals.values()] }, (style) => {
    const told = `${count(settled, "message")} ${done}`;
    if (refused === 0) return told;
    const reasons = [...refusals.values()].map(({ count, detail }) => `  ${count}: ${plain(detail)}`);
    return [`${told}, ${style.red(`${refused} refused`)}: see muster dead-letters ls`, ...reasons].join("\n");
  });
  return refused === 0 ? exitCodes.ok : exitCodes.failed;
}

interface Refusal {
  code: string;
  detail: string;
  count: number;
}

interface Sum {
  settled: number;
  /** They are still there: their target is gone for good or takes no more, or they are malformed. */
  refused: number;
  /** By the reason. */
  refusals: Map<string, Refusal>;
}

interface Settled {
  redriven?: number;
  discarded?: number;
  refused?: number;
  refusals?: Refusal[];
  cursor?: string;
}

async function settleEach(session: Session, verb: keyof typeof verbs, ids: string[]): Promise<Sum> {
  for (const id of ids) {
    if (verb === "discard") await session.bridge.ask({ method: "DELETE", path: path`/v1/dead-letters/${id}` });
    else await session.bridge.ask({ method: "POST", path: path`/v1/dead-letters/${id}/redrive` });
  }
  return { settled: ids.length, refused: 0, refusals: new Map() };
}

/** The bridge does a thousand at a time. */
async function settleMatching(session: Session, verb: keyof typeof verbs, which: { match?: Match }): Promise<Sum> {
  const sum: Sum = { settled: 0, refused: 0, refusals: new Map() };
  let cursor: string | undefined;
  do {
    const body = { ...which, ...(cursor === undefined ? {} : { cursor }) };
    const answer = await session.bridge.ask<Settled>({ method: "POST", path: `/v1/dead-letters/${verb}`, body });
    const { refused = 0, refusals = [] } = answer.body;
    sum.settled += answer.body[verbs[verb].counter] ?? 0;
    sum.refused += refused;
    for (const refusal of refusals) {
      const before = sum.refusals.get(refusal.detail);
      sum.refusals.set(refusal.detail, { ...refusal, count: (before?.count ?? 0) + refusal.count });
    }
    cursor = answer.body.cursor;
  } while (cursor !== undefined);
  return sum;
}

async function readDeadLetters(session: Session, match: Match = {}): Promise<DeadLetter[]> {
  const found: DeadLetter[] = [];
  let cursor: string | undefined;
  do {
    const query = { ...match, limit: limits.page.max, cursor };
    const { body } = await session.bridge.ask<{ deadLetters: DeadLetter[]; cursor?: string }>({
      path: "/v1/dead-letters",
      query,
    });
    found.push(...body.deadLetters);
    cursor = body.cursor;
  } while (cursor !== undefined);
  return found;
}

/** Of ids or a number only: for completion, and for the overview. */
export async function deadLetterIds(session: Session): Promise<string[]> {
  return (await readDeadLetters(session)).map(({ id }) => id);
}

function listText(letters: DeadLetter[], style: Style, columns?: number): string {
  if (letters.length === 0) return style.dim("no dead letters");
  const shape: Column<DeadLetter>[] = [
    { title: "ID", of: ({ id }) => id },
    { title: "AT", of: ({ at }) => moment(at), paint: style.dim },
    { title: "TO", of: ({ to }) => to },
    { title: "NAME", of: ({ name }) => name, paint: style.bold },
    { title: "FROM", of: ({ from }) => from },
    { title: "STATE", of: ({ state }) => state },
    { title: "REASON", of: ({ reason }) => reason, paint: style.red },
  ];
  return `${table(shape, letters, style, columns)}\n${style.dim(count(letters.length, "dead letter"))}`;
}

function showText({ id, reason, from, to, name, at, body, ...rest }: DeadLetter, style: Style): string {
  const head = details(
    [
      ["id", id],
      ["name", plain(name ?? "")],
      ["to", plain(to ?? "")],
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
