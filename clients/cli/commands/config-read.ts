/** `muster config ls|get|explain|history|faults`: what is set, where it comes from, what is wrong with it. */
import type { Command } from "commander";
import { type FieldError, MusterError } from "../../../config-db/errors.ts";
import { limits } from "../../../config-db/limits.ts";
import { path } from "../bridge.ts";
import { changesBetween, changesText, valueAt } from "../changes.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import { faultLines } from "../failure.ts";
import type { Invocation } from "../invocation.ts";
import { type Candidate, candidateText, historyDiffText, historyText, layerText, type Version } from "../layer-text.ts";
import type { Layer } from "../proposal.ts";
import type { Session } from "../session.ts";
import { coloredJson, plain, type Style, short } from "../style.ts";
import { type Column, count, moment, table } from "../table.ts";
import { parseCount } from "../values.ts";

interface Explained {
  etag: string;
  settings: Record<string, unknown>;
  explain: Record<string, { layer: string; version: number; candidate?: boolean }>;
}

/** What came in broken and is out of force, or a component whose settings do not fit. */
interface Fault {
  kind: string;
  document?: string;
  component?: string;
  rev?: string;
  active?: { version: number; rev: string };
  errors: FieldError[];
}

const next = {
  "not-found":
    "Nobody has written that layer, or staged a change of it. What there is shows: muster config ls; what a component gets altogether: muster config explain <component>",
};

export function configReadCommands(group: Command, cli: Invocation): void {
  withExamples(
    group
      .command("ls")
      .description("List the layers that someone has written.")
      .action(
        cli.does(async (session) => {
          const layers = await readLayers(session);
          await session.print({ layers }, (style) => layersText(layers, style, session.columns));
        }),
      ),
    { line: "muster config ls" },
  );

  withExamples(
    group
      .command("get")
      .description("Show a layer's own settings, or the effective settings of a component.")
      .argument("<layer>", "a layer such as type:collector, or a component's id for its effective settings")
      .option("-w, --watch", "of a component: go on, and show what changes")
      .option("--candidate", "the staged change of the layer")
      .action(
        cli.does<[string], { watch?: true; candidate?: true }>(async (session, [name], { watch, candidate }) => {
          if (isLayer(name) && watch) {
            throw new MusterError(
              "invalid-request",
              "--watch is for a component's effective settings: give a component's id",
            );
          }
          if (candidate) await showCandidate(session, name);
          else if (isLayer(name)) await showLayer(session, name);
          else await showEffective(session, name, watch);
        }, next),
      ),
    { line: "muster config get type:collector", does: "what the layer says" },
    { line: "muster config get collector-1", does: "what the component gets, of all layers" },
    { line: "muster config get collector-1 --watch" },
    { line: "muster config get type:collector -o json | jq .settings > settings.json" },
  );

  withExamples(
    group
      .command("explain")
      .description("Show a component's effective settings, and which layer each value comes from.")
      .argument("<component>", "its id")
      .action(
        cli.does<[string]>(async (session, [id]) => {
          const request = { path: path`/v1/components/${id}/config`, query: { explain: true } };
          const { body } = await session.bridge.ask<Explained>(request);
          await session.print(body, (style) => explainText(body, style, session.columns));
        }),
      ),
    { line: "muster config explain collector-1" },
  );

  withExamples(
    group
      .command("history")
      .description("Show the versions of a layer, the newest first.")
      .argument("<layer>", "such as type:collector")
      .option("--diff", "with what each version changed")
      .option("--limit <n>", "at most so many", parseCount(1, 10_000), 20)
      .action(
        cli.does<[string], { diff?: true; limit: number }>(async (session, [layer], { diff, limit }) => {
          // One more than asked for: the oldest one shown is compared with its predecessor.
          const versions = await readHistory(session, layer, limit + 1);
          const shown = versions.slice(0, limit);
          await session.print({ versions: shown }, (style) =>
            diff ? historyDiffText(shown, versions.slice(limit), style) : historyText(shown, style, session.columns),
          );
        }, next),
      ),
    { line: "muster config history type:collector" },
    { line: "muster config history type:collector --diff --limit 5", does: "what was changed, by whom" },
  );

  withExamples(
    group
      .command("faults")
      .description(
        "List what is wrong: layers that came in from another site and would break components, and components without valid settings. Ends with 1 when there is any.",
      )
      .action(
        cli.does(async (session): Promise<ExitCode> => {
          const { body } = await session.bridge.ask<{ faults: Fault[] }>({ path: "/v1/config/faults" });
          await session.print(body, (style) => faultsText(body.faults, style));
          return body.faults.length === 0 ? exitCodes.ok : exitCodes.failed;
        }),
      ),
    { line: "muster config faults" },
  );
}

/** A layer's name has its scope before a colon; a component's id cannot have one. */
export function isLayer(name: string): boolean {
  return name === "platform" || name.includes(":");
}

async function showLayer(session: Session, layer: string): Promise<void> {
  const { body, etag } = await session.bridge.ask<Layer>({ path: path`/v1/config/layers/${layer}` });
  await session.print(body, (style) => layerText(body, style, etag));
}

async function showCandidate(session: Session, layer: string): Promise<void> {
  const { body } = await session.bridge.ask<Candidate>({ path: path`/v1/config/layers/${layer}/candidate` });
  await session.print(body, (style) => candidateText(body, style, session.columns));
}

async function showEffective(session: Session, id: string, watch: true | undefined): Promise<void> {
  const request = { path: path`/v1/components/${id}/config` };
  if (!watch) {
    const { body } = await session.bridge.ask(request);
    await session.print(body, (style) => coloredJson(body, style));
    return;
  }
  let before: unknown;
  for await (const event of session.events<{ etag: string; settings: unknown }>(request)) {
    const { etag, settings } = event.data;
    await session.printEvent(event, (style) => {
      const head = style.bold(`${plain(id)} has ${etag}`);
      const changes =
        before === undefined ? coloredJson(settings, style) : changesText(changesBetween(before, settings), style);
      before = settings;
      return `${head}\n${changes}`;
    });
  }
}

function explainText({ etag, settings, explain }: Explained, style: Style, columns?: number): string {
  const rows = Object.entries(explain).map(([pointer, origin]) => ({ pointer, ...origin }));
  if (rows.length === 0) return style.dim(`no settings (etag ${etag})`);
  const shape: Column<(typeof rows)[number]>[] = [
    { title: "SETTING", of: ({ pointer }) => pointer },
    { title: "VALUE", of: ({ pointer }) => short(valueAt(settings, pointer)), paint: style.cyan },
    { title: "FROM", of: ({ layer, candidate }) => (candidate ? `${layer} (candidate)` : layer) },
    { title: "VERSION", of: ({ version }) => version, align: "right" },
  ];
  return `${table(shape, rows, style, columns)}\n${style.dim(`etag ${etag}`)}`;
}

/** A layer's versions, at most `limit`, the newest first. */
async function readHistory(session: Session, layer: string, limit: number): Promise<Version[]> {
  const versions: Version[] = [];
  let cursor: string | undefined;
  do {
    const query = { limit: Math.min(limit - versions.length, limits.page.max), cursor };
    const request = { path: path`/v1/config/layers/${layer}/history`, query };
    const { body } = await session.bridge.ask<{ versions: Version[]; cursor?: string }>(request);
    versions.push(...body.versions);
    cursor = body.cursor;
  } while (cursor !== undefined && versions.length < limit);
  return versions;
}

async function readLayers(session: Session): Promise<Omit<Layer, "settings">[]> {
  const layers: Omit<Layer, "settings">[] = [];
  let cursor: string | undefined;
  do {
    const request = { path: "/v1/config/layers", query: { limit: limits.page.max, cursor } };
    const { body } = await session.bridge.ask<{ layers: Layer[]; cursor?: string }>(request);
    layers.push(...body.layers);
    cursor = body.cursor;
  } while (cursor !== undefined);
  return layers;
}

function layersText(layers: Omit<Layer, "settings">[], style: Style, columns?: number): string {
  if (layers.length === 0) return style.dim("no layers: nobody has set anything yet");
  const shape: Column<Omit<Layer, "settings">>[] = [
    { title: "LAYER", of: ({ layer }) => layer, paint: style.bold },
    { title: "VERSION", of: ({ version }) => version, align: "right" },
    { title: "CHANGED", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "BY", of: ({ changedBy }) => changedBy },
    { title: "SITE", of: ({ site }) => site },
    { title: "NOTE", of: ({ note }) => note, optional: true },
  ];
  return table(shape, layers, style, columns);
}

function faultsText(faults: Fault[], style: Style): string {
  if (faults.length === 0) return style.green("no faults");
  const told = faults.map(({ kind, document, component, active, errors }) => {
    const what = style.bold(plain(document ?? component ?? ""));
    const means: Record<string, string> = {
      held: `is out of force, ${active === undefined ? "nothing" : `version ${active.version}`} is in force instead`,
      unusable: "has no effect",
      invalid: "has settings that do not fit the schema of its type",
    };
    return [`${what} ${means[kind] ?? plain(kind)}`, ...faultLines(errors, style)].join("\n");
  });
  return `${told.join("\n")}\n${style.dim(count(faults.length, "fault"))}`;
}
