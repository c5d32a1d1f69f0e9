/** How a layer, its staged change and its versions read. */
import { changeText, type JsonPatchOperation, operationText } from "./changes.ts";
import { faultLines } from "./failure.ts";
import type { Layer } from "./proposal.ts";
import { coloredJson, plain, type Style, short } from "./style.ts";
import { type Column, count, moment, table } from "./table.ts";

/** A staged change, and what the components that have it made of it. */
export interface Candidate extends Omit<Layer, "held" | "content"> {
  selector: Record<string, unknown>;
  promoteWhen?: { applied: number };
  withdrawOnReject?: boolean;
  state: "staged" | "promoted" | "withdrawn";
  /** Why it was withdrawn. */
  reason?: string;
  /** The layer was changed since this was staged. */
  stale: boolean;
  components: ComponentStatus[];
}

export interface ComponentStatus {
  id: string;
  etag?: string;
  wanted: string;
  status: "applied" | "rejected" | "pending";
  reason?: string;
  at?: string;
}

/** A version of a layer. */
export interface Version extends Omit<Layer, "content" | "held"> {
  rev: string;
  /** From the version that it was made from; absent where that one is no longer kept. */
  diff?: JsonPatchOperation[];
  deleted?: true;
}

export function layerText(layer: Layer, style: Style, etag?: string): string {
  const { content = [], held } = layer;
  const lines = headLines(layer, style, etag);
  if (content.length > 0) {
    const files = content.map(
      ({ file, contentType, sizeBytes }) => `${plain(file)} (${sizeBytes} bytes, ${contentType})`,
    );
    lines.push(`content: ${files.join(", ")}`);
  }
  if (held !== undefined) {
    const instead = held.active === undefined ? "nothing" : `version ${held.active.version}`;
    lines.push(style.red(`Out of force: it would break components; ${instead} is in force instead.`));
    lines.push(...faultLines(held.errors, style));
  }
  return [...lines, coloredJson(layer.settings, style)].join("\n");
}

export function candidateText(candidate: Candidate, style: Style, columns?: number): string {
  const { state, reason, selector, promoteWhen, withdrawOnReject, stale, settings, components } = candidate;
  const lines = headLines(candidate, style);
  lines.push(
    `${stateText(state, style)} for ${short(selector, 200)}${reason === undefined ? "" : `: ${plain(reason)}`}`,
  );
  if (promoteWhen !== undefined)
    lines.push(style.dim(`promoted by itself once ${count(promoteWhen.applied, "component")} applied it`));
  if (withdrawOnReject === true) lines.push(style.dim("withdrawn by itself when a component rejects it"));
  if (stale) lines.push(style.yellow("The layer was changed since it was staged: stage it again."));
  lines.push(coloredJson(settings, style));
  if (state === "staged")
    lines.push(components.length === 0 ? style.dim("no component has it") : statusTable(components, style, columns));
  return lines.join("\n");
}

function headLines(
  layer: Pick<Layer, "layer" | "version" | "changedBy" | "changedAt" | "site" | "note">,
  style: Style,
  etag = "",
): string[] {
  const { version, changedBy, changedAt, site, note } = layer;
  return [
    `${style.bold(layer.layer)}  version ${version}`,
    style.dim(`by ${plain(changedBy)} at ${moment(changedAt)}, site ${site}`),
    ...(note === undefined ? [] : [style.dim(`note: ${plain(note)}`)]),
    ...(etag === "" ? [] : [style.dim(`etag: ${etag}`)]),
  ];
}

function stateText(state: Candidate["state"], style: Style): string {
  if (state === "staged") return style.yellow(state);
  return state === "promoted" ? style.green(state) : style.red(state);
}

export function statusTable(components: ComponentStatus[], style: Style, columns?: number): string {
  const shape: Column<ComponentStatus>[] = [
    { title: "ID", of: ({ id }) => id, paint: style.bold },
    { title: "STATUS", of: ({ status }) => status, paint: (cell) => statusText(cell, style) },
    { title: "HAS", of: ({ etag }) => etag },
    { title: "WANTED", of: ({ status, wanted }) => (status === "pending" ? wanted : ""), optional: true },
    { title: "AT", of: ({ at }) => moment(at), paint: style.dim },
    { title: "REASON", of: ({ reason }) => reason, optional: true },
  ];
  return table(shape, components, style, columns);
}

/** Of a component's report: applied, rejected or pending. */
export function statusText(status: string, style: Style): string {
  if (status === "applied") return style.green(status);
  return status === "rejected" ? style.red(status) : style.yellow(status);
}

export function historyText(versions: Version[], style: Style, columns?: number): string {
  const shape: Column<Version>[] = [
    { title: "VERSION", of: ({ version }) => version, align: "right", paint: style.bold },
    { title: "AT", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "BY", of: ({ changedBy }) => changedBy },
    { title: "SITE", of: ({ site }) => site },
    { title: "", of: ({ deleted }) => (deleted ? "deleted" : ""), paint: style.red, optional: true },
    { title: "NOTE", of: ({ note }) => note },
  ];
  return table(shape, versions, style, columns);
}

/** @param older those that come after the ones told: what was is read from them. */
export function historyDiffText(versions: Version[], older: Version[], style: Style): string {
  const all = [...versions, ...older];
  return versions
    .map((version) => {
      const { version: number, changedAt, changedBy, site, note, deleted } = version;
      const said = note === undefined ? "" : `  ${plain(note)}`;
      const head = `${style.bold(`version ${number}`)}  ${style.dim(`${moment(changedAt)} by ${plain(changedBy)}, site ${site}`)}${said}`;
      return [head, ...(deleted ? [style.red("  deleted")] : diffLines(version, all, style))].join("\n");
    })
    .join("\n");
}

function diffLines({ version, diff, settings }: Version, all: Version[], style: Style): string[] {
  if (diff === undefined) return [`  ${changeText({ pointer: "/", after: settings }, style)}`];
  if (diff.length === 0) return [style.dim("  the same settings as before")];
  // Where sites made two of one number, which of them this one replaced is not told.
  const before = all.filter((one) => one.version === version - 1);
  const known = before.length === 1 ? before[0]?.settings : undefined;
  return diff.map((operation) => `  ${operationText(operation, style, known)}`);
}
