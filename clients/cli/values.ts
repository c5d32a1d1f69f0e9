/** What stands on the command line, as values: assignments, targets, durations. Pure; errors say what would be right. */
import { MusterError } from "../../config-db/errors.ts";
import type { Target } from "../../config-db/generated/types.ts";
import { idPattern } from "../../config-db/names.ts";

const wrong = (message: string) => new MusterError("invalid-request", message);

/** Names that would reach an object's prototype. */
const forbiddenKeys = new Set(["__proto__", "constructor", "prototype"]);

export interface Assignment {
  /** The keys from the root, unescaped. */
  path: string[];
  value: unknown;
}

/**
 * `key=value`: the key dotted (`retry.maxMs`) or a JSON Pointer (`/retry/max.ms`), the value JSON, or text where it is not
 * JSON. `null` removes, as in every merge patch.
 * @throws MusterError `invalid-request` where a guess would change what was meant: 1.10 is not 1.1, and `{"a":` is no text.
 */
export function parseAssignment(text: string): Assignment {
  const equals = text.indexOf("=");
  if (equals < 1) throw wrong(`"${text}" is no assignment: write key=value, for example samplingIntervalMs=500`);
  return { path: parseKey(text.slice(0, equals)), value: parseValue(text.slice(equals + 1), text) };
}

function parseKey(key: string): string[] {
  const path = key.startsWith("/")
    ? key
        .slice(1)
        .split("/")
        .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"))
    : key.split(".");
  if (path.some((part) => part === "")) {
    throw wrong(`"${key}" has an empty part: write retry.maxMs, or /retry/maxMs where a name has a dot in it`);
  }
  const forbidden = path.find((part) => forbiddenKeys.has(part));
  if (forbidden !== undefined) throw wrong(`"${forbidden}" cannot be a setting's name`);
  return path;
}

/** A value as it is typed: JSON, or else text. */
export function parseValue(text: string, whole = text): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    if (!/^\s*["[{]/.test(text)) return text;
    throw wrong(
      `${whole} looks like JSON but is not: ${(error as Error).message}. Text that starts so goes in quotes: '"…"'`,
    );
  }
  if (typeof value === "number" && String(value) !== text.trim()) {
    throw wrong(`${text} would be stored as ${value}: write that for the number, or '"${text}"' for the text`);
  }
  return value;
}

/** Assignments as one merge patch. Two of which one lies within the other are refused: which of them wins, nobody said. */
export function toPatch(assignments: Assignment[]): Record<string, unknown> {
  const patch: Record<string, unknown> = {};
  for (const [index, { path, value }] of assignments.entries()) {
    const other = assignments.slice(0, index).find((before) => within(before.path, path) || within(path, before.path));
    if (other !== undefined)
      throw wrong(`${path.join(".")} and ${other.path.join(".")} contradict each other: give one`);
    let at = patch;
    for (const part of path.slice(0, -1)) {
      at[part] ??= {};
      at = at[part] as Record<string, unknown>;
    }
    at[path.at(-1) as string] = value;
  }
  return patch;
}

function within(outer: string[], inner: string[]): boolean {
  return outer.every((part, index) => inner[index] === part);
}

/** A message's body: nothing, one JSON value, or `key=value` pairs that make an object. */
export function parseBody(words: string[]): unknown {
  const [first] = words;
  if (first === undefined) return undefined;
  const isPair = (word: string) => /^[^\s"'{[=]+=/.test(word);
  if (words.every(isPair)) return toPatch(words.map(parseAssignment));
  if (words.length === 1) return parseValue(first);
  const odd = words.find((word) => !isPair(word)) ?? "";
  throw wrong(`"${odd}" is no key=value: give pairs, or one JSON value in quotes such as '{"mode": "fast"}'`);
}

/** `collector-1`, `type:collector`, `any:collector` or `all`. */
export function parseTarget(text: string): Target {
  if (text === "all") return { all: true };
  const [scope, id, ...rest] = text.includes(":") ? text.split(":") : ["component", text];
  const known = scope === "component" || scope === "type" || scope === "any";
  if (known && id !== undefined && rest.length === 0 && idPattern.test(id)) return { [scope]: id } as unknown as Target;
  throw wrong(
    `"${text}" is no target: write a component's id, type:<t> for all of a type, any:<t> for one of it, or all`,
  );
}

export function targetText(target: Target): string {
  if ("all" in target) return "all";
  if ("component" in target) return target.component;
  return "any" in target ? `any:${target.any}` : `type:${target.type}`;
}

const unitsMs: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/** `250ms`, `30s`, `5m`, `2h`, `1d` in milliseconds. */
export function parseDuration(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|min|h|d)$/.exec(text) ?? [];
  const ms = Number(amount) * (unitsMs[unit ?? ""] ?? Number.NaN);
  if (!Number.isSafeInteger(Math.round(ms)) || ms < 1) {
    throw wrong(`"${text}" is no duration: write a number and its unit, such as 250ms, 30s, 5m, 2h or 1d`);
  }
  return Math.round(ms);
}

/** An integer within limits, for options such as `--limit`. */
export function parseCount(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max)
      throw wrong(`"${text}" must be an integer from ${min} to ${max}`);
    return value;
  };
}

/** For options that may be given several times. */
export function collect(value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value];
}
