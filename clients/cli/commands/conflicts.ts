/** `muster conflicts`: where sites changed the same thing each in its own way, and which of it shall stand. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { plain, type Style, short } from "../style.ts";
import { type Column, count, details, moment, table } from "../table.ts";
import { parseValue } from "../values.ts";

interface Candidate {
  rev: string;
  site: string;
  changedBy?: string;
  changedAt?: string;
  /** Absent where this side has nothing there. */
  value?: unknown;
  /** True for the one that stands now. */
  live: boolean;
  /** That side is none of its kind and cannot be chosen; its value is absent where it cannot be shown. */
  unusable?: true;
}

export interface Conflict {
  id: string;
  layer?: string;
  record?: string;
  part?: string;
  pointer: string;
  /** Absent where nothing was before. */
  base?: unknown;
  candidates: Candidate[];
  since: string;
}

const next = { "not-found": "It may be resolved already: see muster conflicts ls" };

export function conflictCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("conflicts")
    .alias("conflict")
    .summary("see and settle what sites changed at once")
    .description("See where sites changed the same setting each in its own way, and say which shall stand.");

  withExamples(
    group
      .command("ls")
      .description("List open conflicts. One side stands already, and nothing is lost: see each with show.")
      .option("-w, --watch", "go on: list them again whenever there are others")
      .action(
        cli.does<[], { watch?: true }>(async (session, _none, { watch }) => {
          const tell = (body: { conflicts: Conflict[] }) =>
            session.print(body, (style) => listText(body.conflicts, style, session.columns));
          if (!watch) return await tell({ conflicts: await readConflicts(session) });
          for await (const body of session.states<{ conflicts: Conflict[] }>({ path: "/v1/conflicts" }))
            await tell(body);
        }),
      ),
    { line: "muster conflicts ls" },
    { line: "muster conflicts ls --watch" },
  );

  withExamples(
    group
      .command("show")
      .description("Show all sides of a conflict, and what was there before.")
      .argument("<conflict>", "its id")
      .action(
        cli.does<[string]>(async (session, [id]) => {
          const conflict = await readConflict(session, id);
          await session.print(conflict, (style) => showText(conflict, style, session.columns));
        }, next),
      ),
    { line: "muster conflicts show $(muster conflicts ls -o json | jq -r '.conflicts[0].id')" },
  );

  withExamples(
    group
      .command("resolve")
      .description("Close a conflict: by what stands, by the value of one side, or by a new one.")
      .argument("<conflict>", "its id")
      .option("--keep", "what stands now")
      .option(
        "--choose <rev-or-site>",
        "the value of this side: its revision, or its site where that has one side only",
      )
      .option("--value <value>", "this value: JSON or text")
      .action(
        cli.does<[string], { keep?: true; choose?: string; value?: string }>(async (session, [id], options) => {
          const conflict = await readConflict(session, id);
          const body = resolutionOf(conflict, options);
          const answer = await session.bridge.ask({ method: "POST", path: path`/v1/conflicts/${id}/resolution`, body });
          await session.print(answer.body ?? { id, ...body }, (style) => {
            const chosen = conflict.candidates.find(({ rev }) => rev === body.choose);
            const value = chosen === undefined ? short(body.value) : valueText(chosen);
            return `${style.bold(placeOf(conflict))} is ${value} at every site`;
          });
        }, next),
      ),
    { line: "muster conflicts resolve $(muster conflicts ls -o json | jq -r '.conflicts[0].id') --keep" },
    { line: "muster conflicts resolve $(muster conflicts ls -o json | jq -r '.conflicts[1].id') --value 750" },
  );
}

/** @throws MusterError `invalid-request` unless one way is given that names one side. */
export function resolutionOf(
  { candidates }: Conflict,
  { keep, choose, value }: { keep?: true; choose?: string; value?: string },
): { choose?: string; value?: unknown } {
  if ([keep, choose, value].filter((way) => way !== undefined).length !== 1) {
    throw new MusterError("invalid-request", "how? Give one of --keep, --choose and --value");
  }
  if (value !== undefined) return { value: parseValue(value) };
  const named = candidates.filter(({ rev, site, live, unusable }) =>
    keep ? live : rev === choose || rev.startsWith(`${choose}`) || (site === choose && unusable !== true),
  );
  const [only] = named;
  if (only !== undefined && named.length === 1) return { choose: only.rev };
  const sides = candidates.map(({ rev, site }) => `${rev} (${site})`).join(", ");
  if (keep) throw new MusterError("invalid-request", `none of the sides stands any more; --choose one of ${sides}`);
  throw new MusterError(
    "invalid-request",
    `"${choose}" names ${named.length === 0 ? "no side" : "several sides"}; there are ${sides}`,
  );
}

export async function readConflicts(session: Session): Promise<Conflict[]> {
  return (await session.bridge.ask<{ conflicts: Conflict[] }>({ path: "/v1/conflicts" })).body.conflicts;
}

async function readConflict(session: Session, id: string): Promise<Conflict> {
  return (await session.bridge.ask<Conflict>({ path: path`/v1/conflicts/${id}` })).body;
}

/** The layer, or other record, and the place in it. */
export function placeOf({ layer, record, pointer }: Pick<Conflict, "layer" | "record" | "pointer">): string {
  return plain(`${layer ?? record ?? ""} ${pointer}`.trim());
}

export function valueText({ value, unusable }: { value?: unknown; unusable?: true }): string {
  if (unusable === true) return `unusable${value === undefined ? "" : `: ${short(value)}`}`;
  return value === undefined ? "nothing" : short(value);
}

function listText(conflicts: Conflict[], style: Style, columns?: number): string {
  if (conflicts.length === 0) return style.green("no conflicts");
  const shape: Column<Conflict>[] = [
    { title: "ID", of: ({ id }) => id },
    { title: "WHERE", of: placeOf, paint: style.bold },
    { title: "STANDS", of: ({ candidates }) => valueText(candidates.find(({ live }) => live) ?? {}) },
    {
      title: "AGAINST",
      of: ({ candidates }) =>
        candidates
          .filter(({ live }) => !live)
          .map(valueText)
          .join(", "),
      paint: style.yellow,
    },
    { title: "SITES", of: ({ candidates }) => [...new Set(candidates.map(({ site }) => site))].join(", ") },
    { title: "SINCE", of: ({ since }) => moment(since), paint: style.dim },
  ];
  return `${table(shape, conflicts, style, columns)}\n${style.dim(count(conflicts.length, "conflict"))}`;
}

function showText(conflict: Conflict, style: Style, columns?: number): string {
  const { id, base, candidates, since } = conflict;
  const head = details(
    [
      ["conflict", id],
      ["where", style.bold(placeOf(conflict))],
      ["before", "base" in conflict ? short(base, 200) : "nothing"],
      ["since", moment(since)],
    ],
    style,
  );
  const shape: Column<Candidate>[] = [
    { title: "", of: ({ live }) => (live ? "stands" : ""), paint: style.green },
    { title: "SITE", of: ({ site }) => site },
    { title: "VALUE", of: valueText, paint: style.yellow },
    { title: "BY", of: ({ changedBy }) => changedBy },
    { title: "AT", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "REV", of: ({ rev }) => rev, paint: style.dim },
  ];
  return `${head}\n\n${table(shape, candidates, style, columns)}`;
}
