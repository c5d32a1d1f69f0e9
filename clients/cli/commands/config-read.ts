/** `muster config get|explain|history|status`: what is set, where it comes from, who has it. */
import type { Command } from "commander";
import { path } from "../bridge.ts";
import { changesBetween, changesText } from "../changes.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import type { Layer } from "../proposal.ts";
import type { Session } from "../session.ts";
import { coloredJson, plain, type Style, short } from "../style.ts";
import { type Column, count, moment, table } from "../table.ts";
import { parseCount } from "../values.ts";
import { statusText } from "./components.ts";

interface Explained {
  etag: string;
  settings: Record<string, unknown>;
  explain: Record<string, { layer: string; version: number; candidate?: boolean }>;
}

interface Status {
  total: number;
  applied: number;
  rejected: number;
  pending: number;
  components: { id: string; etag?: string; wanted: string; status: string; reason?: string; at?: string }[];
}

const next = {
  "not-found":
    "Nobody has written that layer yet. What a component gets altogether shows: muster config explain <component>",
};

export function configReadCommands(group: Command, cli: Invocation): void {
  withExamples(
    group
      .command("get")
      .description("Show a layer's own settings, or the effective settings of a component.")
      .argument("<layer>", "a layer such as type:collector, or a component's id for its effective settings")
      .option("-w, --watch", "go on: show it again whenever it changes")
      .option("--candidate", "the staged change of the layer")
      .action(
        cli.does<[string], { watch?: true; candidate?: true }>(async (session, [name], { watch, candidate }) => {
          if (isLayer(name)) return await showLayer(session, name, { watch, candidate });
          await showEffective(session, name, watch);
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
            diff ? historyDiffText(versions, limit, style) : historyText(shown, style, session.columns),
          );
        }, next),
      ),
    { line: "muster config history type:collector" },
    { line: "muster config history type:collector --diff --limit 5", does: "what was changed, by whom" },
  );

  withExamples(
    group
      .command("status")
      .description("Show how many components have applied their settings, who rejected them and why.")
      .option("--type <type>", "components of this type only")
      .option("-w, --watch", "go on: a line whenever it changes")
      .option("--wait", "until none is pending: ends with 0 when all applied, 1 when one rejected, 6 after --timeout")
      .action(
        cli.does<[], { type?: string; watch?: true; wait?: true }>(async (session, _none, { type, watch, wait }) => {
          const request = { path: "/v1/config/status", query: { type } };
          if (watch || wait) return await followStatus(session, request, watch === true);
          const { body } = await session.bridge.ask<Status>(request);
          await session.print(body, (style) => configStatusText(body, style, session.columns));
        }),
      ),
    { line: "muster config status", does: "of all components" },
    { line: "muster config status --type collector --wait --timeout 10s", does: "for scripts, after a change" },
    { line: "muster config status --watch" },
  );
}

/** A layer's name has its scope before a colon; a component's id cannot have one. */
export function isLayer(name: string): boolean {
  return name === "platform" || name.includes(":");
}

async function showLayer(
  session: Session,
  layer: string,
  { watch, candidate }: { watch: true | undefined; candidate: true | undefined },
): Promise<void> {
  const request = { path: path`/v1/config/layers/${layer}` + (candidate ? "/candidate" : "") };
  if (watch) {
    for await (const body of session.states<Layer>(request))
      await session.print(body, (style) => layerText(body, style));
    return;
  }
  const { body, etag } = await session.bridge.ask<Layer>(request);
  await session.print(body, (style) => layerText({ ...body, layer: body.layer ?? layer }, style, etag));
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

/** A layer, or a candidate for one, which says also whom it is for. */
export function layerText(
  body: Layer & { selector?: unknown; promoteWhen?: unknown },
  style: Style,
  etag?: string,
): string {
  const { layer, version, changedBy, changedAt, site, note, settings, content = [], selector, promoteWhen } = body;
  const lines = [`${style.bold(layer)}  ${version === undefined ? "" : `version ${version}`}`.trimEnd()];
  if (changedBy !== undefined) lines.push(style.dim(`by ${plain(changedBy)} at ${moment(changedAt)}, site ${site}`));
  if (note !== undefined) lines.push(style.dim(`note: ${plain(note)}`));
  if (etag !== undefined && etag !== "") lines.push(style.dim(`etag: ${etag}`));
  if (selector !== undefined) lines.push(`for ${short(selector)}`);
  if (promoteWhen !== undefined) lines.push(`promoted when ${short(promoteWhen)}`);
  if (content.length > 0) lines.push(`content: ${content.map(({ file }) => plain(file)).join(", ")}`);
  return `${lines.join("\n")}\n${coloredJson(settings, style)}`;
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
  return `${table(rows.length > 0 ? shape : [], rows, style, columns)}\n${style.dim(`etag ${etag}`)}`;
}

function valueAt(root: unknown, pointer: string): unknown {
  const keys = pointer.split("/").slice(1);
  return keys.reduce<unknown>((at, key) => {
    return (at as Record<string, unknown> | undefined)?.[key.replaceAll("~1", "/").replaceAll("~0", "~")];
  }, root);
}

/** A layer's versions, at most `limit`, the newest first. */
export async function readHistory(session: Session, layer: string, limit: number): Promise<Layer[]> {
  const versions: Layer[] = [];
  let cursor: string | undefined;
  do {
    const query = { limit: Math.min(limit - versions.length, 1_000), cursor };
    const request = { path: path`/v1/config/layers/${layer}/history`, query };
    const { body } = await session.bridge.ask<{ versions: Layer[]; cursor?: string }>(request);
    versions.push(...body.versions);
    cursor = body.cursor;
  } while (cursor !== undefined && versions.length < limit);
  return versions;
}

function historyText(versions: Layer[], style: Style, columns?: number): string {
  if (versions.length === 0) return style.dim("no versions");
  const shape: Column<Layer>[] = [
    { title: "VERSION", of: ({ version }) => version, align: "right", paint: style.bold },
    { title: "AT", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "BY", of: ({ changedBy }) => changedBy },
    { title: "SITE", of: ({ site }) => site },
    { title: "NOTE", of: ({ note }) => note },
  ];
  return table(shape, versions, style, columns);
}

function historyDiffText(versions: Layer[], limit: number, style: Style): string {
  return versions
    .slice(0, limit)
    .map(({ version, changedAt, changedBy, site, note, settings }, index) => {
      const said = note === undefined ? "" : `  ${plain(note)}`;
      const head = `${style.bold(`version ${version}`)}  ${style.dim(`${moment(changedAt)} by ${plain(changedBy)}, site ${site}`)}${said}`;
      const changes = changesText(changesBetween(versions[index + 1]?.settings ?? {}, settings), style);
      return `${head}\n${changes || style.dim("  the same settings as before")}`;
    })
    .join("\n");
}

async function followStatus(
  session: Session,
  request: { path: string; query: { type: string | undefined } },
  forever: boolean,
): Promise<ExitCode> {
  let last: Status | undefined;
  for await (const body of session.states<Status>(request, forever ? undefined : session.timeoutMs)) {
    last = body;
    await session.print(body, (style) => summaryText(body, style));
    if (!forever && body.pending === 0) break;
  }
  if (last === undefined) return exitCodes.timeout;
  if (last.rejected > 0) {
    await session.note(
      last.components
        .filter(({ status }) => status === "rejected")
        .map(reasonText)
        .join("\n"),
    );
    return exitCodes.failed;
  }
  if (last.pending === 0) return exitCodes.ok;
  await session.note(
    `still pending: ${last.components
      .filter(({ status }) => status === "pending")
      .map(({ id }) => id)
      .join(", ")}`,
  );
  return exitCodes.timeout;
}

function reasonText({ id, reason }: { id: string; reason?: string }): string {
  return `${plain(id)} rejected: ${plain(reason ?? "no reason given")}`;
}

export function summaryText({ total, applied, rejected, pending }: Status, style: Style): string {
  if (total === 0) return style.dim("no components");
  const parts = [`${applied} of ${count(total, "component")} applied`];
  if (rejected > 0) parts.push(style.red(`${rejected} rejected`));
  if (pending > 0) parts.push(style.yellow(`${pending} pending`));
  return parts.join(", ");
}

function configStatusText(body: Status, style: Style, columns?: number): string {
  if (body.components.length === 0) return summaryText(body, style);
  const shape: Column<Status["components"][number]>[] = [
    { title: "ID", of: ({ id }) => id, paint: style.bold },
    { title: "STATUS", of: ({ status }) => status, paint: (cell) => statusText(cell, style) },
    { title: "HAS", of: ({ etag }) => etag },
    { title: "WANTED", of: ({ status, wanted }) => (status === "pending" ? wanted : ""), optional: true },
    { title: "AT", of: ({ at }) => moment(at), paint: style.dim },
    { title: "REASON", of: ({ reason }) => reason, optional: true },
  ];
  return `${table(shape, body.components, style, columns)}\n${summaryText(body, style)}`;
}
