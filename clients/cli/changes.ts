/** What differs between two settings, and how that reads. Pure. */
import type { FieldError } from "../../config-db/errors.ts";
import { describeFault } from "./failure.ts";
import { plain, type Style, short } from "./style.ts";
import { count } from "./table.ts";

/** `before` or `after` is absent where there is nothing. */
export interface Change {
  pointer: string;
  before?: unknown;
  after?: unknown;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The leaves that differ, by JSON Pointer. Arrays are leaves, as they are to a merge patch. */
export function changesBetween(before: unknown, after: unknown, pointer = ""): Change[] {
  if (isObject(before) && isObject(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => {
      const below = `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
      const [old, now] = [before, after].map((side) => (Object.hasOwn(side, key) ? side[key] : undefined));
      return changesBetween(old, now, below);
    });
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  return [{ pointer, ...(before === undefined ? {} : { before }), ...(after === undefined ? {} : { after }) }];
}

export function changeText({ pointer, before, after }: Change, style: Style): string {
  const where = plain(pointer);
  if (before === undefined) return `${style.green("+")} ${where} = ${style.green(short(after))}`;
  if (after === undefined) return `${style.red("-")} ${where} ${style.dim(`was ${short(before)}`)}`;
  return `${style.yellow("~")} ${where} = ${style.dim(`${short(before)} →`)} ${style.yellow(short(after))}`;
}

export function changesText(changes: Change[], style: Style): string {
  return changes.map((change) => `  ${changeText(change, style)}`).join("\n");
}

/** What the bridge says of a dry run: POST /v1/config/validate. */
export interface Validation {
  valid: boolean;
  components: { id: string; diff: JsonPatchOperation[]; errors: FieldError[] }[];
}

interface JsonPatchOperation {
  op: string;
  path: string;
  value?: unknown;
  from?: string;
}

/** So many names stand in a line before the rest is counted. */
const namesMax = 5;

/** The effective changes, components that change alike told together; then what would fail. */
export function validationText({ valid, components }: Validation, style: Style): string {
  const lines: string[] = [];
  const alike = new Map<string, Validation["components"]>();
  for (const component of components.filter(({ diff }) => diff.length > 0)) {
    const change = JSON.stringify(component.diff);
    alike.set(change, [...(alike.get(change) ?? []), component]);
  }
  if (alike.size === 0) lines.push(style.dim("No component's effective settings would change."));
  for (const group of alike.values()) {
    const names = group.map(({ id }) => id);
    const more = names.length > namesMax ? ` and ${names.length - namesMax} more` : "";
    lines.push(`${count(names.length, "component")} would change: ${names.slice(0, namesMax).join(", ")}${more}`);
    for (const operation of group[0]?.diff ?? []) lines.push(`  ${operationText(operation, style)}`);
  }
  const faulty = components.flatMap(({ id, errors }) => errors.map((error) => ({ component: id, ...error })));
  if (!valid) lines.push(style.red(`It would be refused: ${count(faulty.length, "fault")}`));
  for (const fault of faulty.slice(0, 20)) lines.push(`  ${describeFault(fault, style)}`);
  if (faulty.length > 20) lines.push(`  … and ${faulty.length - 20} more; see all with -o json`);
  return lines.join("\n");
}

function operationText({ op, path, value }: JsonPatchOperation, style: Style): string {
  if (op === "remove") return `${style.red("-")} ${plain(path)}`;
  const [mark, paint] = op === "add" ? ["+", style.green] : ["~", style.yellow];
  return `${paint(mark)} ${plain(path)} = ${paint(short(value))}`;
}
