/** New settings for a layer, as the command line gives them: `key=value` pairs, a file, or what is piped in. */
import type { Command } from "commander";
import { type FieldError, isMusterError, MusterError } from "../../config-db/errors.ts";
import { mergePatch, type Settings } from "../../coordinator/config/merge.ts";
import { path } from "./bridge.ts";
import { readText } from "./file-input.ts";
import type { Session } from "./session.ts";
import { type Assignment, parseAssignment, toPatch } from "./values.ts";

export interface Layer {
  layer: string;
  settings: Settings;
  version: number;
  changedAt: string;
  changedBy: string;
  site: string;
  note?: string;
  content?: { file: string; contentType: string; sizeBytes: number }[];
  /** This version broke components and is out of force: `active` is in force instead, or nothing. */
  held?: { active?: { version: number; rev: string }; errors: FieldError[] };
}

export interface ProposalOptions {
  file?: string;
  merge?: true;
}

/** `merge` changes what is named and leaves the rest; `replace` is all that the layer shall hold. */
export interface Proposal {
  how: "merge" | "replace";
  settings: Settings;
  assignments: Assignment[];
}

export function proposing(command: Command): Command {
  return command
    .argument("<layer>", "platform, subsystem:<s>, type:<t> or component:<id>")
    .argument("[key=value...]", "settings to change: JSON or text; null takes one away from the layer")
    .option("-f, --file <file>", "all settings of the layer, as a JSON file; - is standard input")
    .option("--merge", "the file is a merge patch: change what it names, leave the rest");
}

/** @throws MusterError `invalid-request` when pairs and file are missing, are both there, or are no JSON object. */
export async function readProposal(session: Session, pairs: string[], options: ProposalOptions): Promise<Proposal> {
  const { file, merge } = options;
  if ((file === undefined) === (pairs.length === 0)) {
    const told = file === undefined ? "no settings are given" : "settings are given twice, as pairs and as a file";
    throw new MusterError("invalid-request", `${told}: write key=value pairs, or --file <file> (- for standard input)`);
  }
  if (file === undefined) {
    const assignments = pairs.map(parseAssignment);
    return { how: "merge", settings: toPatch(assignments), assignments };
  }
  return {
    how: merge ? "merge" : "replace",
    settings: parseObject(await readText(session.terminal, file), file),
    assignments: [],
  };
}

/** @param source what to call it in an error. */
export function parseObject(text: string, source: string): Settings {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new MusterError("invalid-request", `${source} is not JSON: ${(error as Error).message}`);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Settings;
  const kind = Array.isArray(value) ? "an array" : value === null ? "null" : `a ${typeof value}`;
  throw new MusterError("invalid-request", `${source} must hold a JSON object, it holds ${kind}`);
}

/** The layer and its revision; undefined where nobody wrote it yet. */
export async function readLayer(session: Session, layer: string): Promise<{ layer: Layer; etag: string } | undefined> {
  try {
    const { body, etag } = await session.bridge.ask<Layer>({ path: path`/v1/config/layers/${layer}` });
    return { layer: body, etag };
  } catch (error) {
    if (isMusterError(error, "not-found")) return undefined;
    throw error;
  }
}

/**
 * What the layer holds once the proposal is in it.
 * @throws MusterError `invalid-request` for a key inside an array: a merge patch would make an object of the array.
 */
export function settingsAfter(before: Settings, { how, settings, assignments }: Proposal): Settings {
  if (how === "replace") return settings;
  for (const { path: keys } of assignments) {
    let at: unknown = before;
    for (const [depth, key] of keys.entries()) {
      if (Array.isArray(at)) {
        const array = keys.slice(0, depth).join(".");
        throw new MusterError(
          "invalid-request",
          `${keys.join(".")} is inside the array ${array}, and arrays are replaced whole: write ${array}='[…]'`,
        );
      }
      at = (at as Settings | undefined)?.[key];
    }
  }
  return mergePatch(before, settings) as Settings;
}
