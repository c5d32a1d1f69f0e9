/** What differs between two settings, and how that reads. Pure. */
import type { FieldError } from "../../config-db/errors.ts";
import { faultLines } from "./failure.ts";
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
  /** What is wrong with the settings or the schema by itself. */
  errors?: FieldError[];
  /** How many components it concerns; those that are told may be fewer. */
  total?: number;
  components: { id: string; diff: JsonPatchOperation[]; errors: FieldError[] }[];
}

export interface JsonPatchOperation {
  op: string;
  path: string;
  value?: unknown;
  from?: string;
}

/** So many names stand in a line before the rest is counted. */
const namesMax = 5;

/** The effective changes, components that change alike told together; then what would fail. */
export function validationText(validation: Validation, style: Style): string {
  const { valid, components, total = components.length } = validation;
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
  if (total > components.length) lines.push(style.dim(`… and ${total - components.length} more components`));
  const faults = faultsOf(validation);
  if (!valid) lines.push(style.red(`It would be refused: ${count(faults.length, "fault")}`));
  lines.push(...faultLines(faults, style));
  return lines.join("\n");
}

/** All that is wrong: with the settings by themselves, and with what components would get. */
export function faultsOf({ errors = [], components }: Validation): FieldError[] {
  return [...errors, ...components.flatMap(({ id, errors: own }) => own.map((error) => ({ component: id, ...error })))];
}

/** @param before the settings that it applies to, where they are known: what was is told then. */
export function operationText({ op, path, value }: JsonPatchOperation, style: Style, before?: unknown): string {
  const change: Change = { pointer: path };
  const was = op === "add" ? undefined : valueAt(before, path);
  if (was !== undefined) change.before = was;
  if (op !== "remove") change.after = value;
  if (op === "add" || was !== undefined) return changeText(change, style);
  if (op === "remove") return `${style.red("-")} ${plain(path)}`;
  return `${style.yellow("~")} ${plain(path)} = ${style.yellow(short(value))}`;
}

/** What a JSON Pointer points at; undefined where there is nothing. */
export function valueAt(root: unknown, pointer: string): unknown {
  const keys = pointer.split("/").slice(1);
  return keys.reduce<unknown>((at, key) => {
    const name = key.replaceAll("~1", "/").replaceAll("~0", "~");
    return typeof at === "object" && at !== null && Object.hasOwn(at, name)
      ? (at as Record<string, unknown>)[name]
      : undefined;
  }, root);
}
