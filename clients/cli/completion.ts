/**
 * What may stand next on a command line. One pure function over the command tree serves all three shells: their
 * scripts only hand the words over (as cobra's do), so that they cannot disagree with the commands.
 */
import type { Argument, Command, Option } from "commander";

export interface Candidate {
  word: string;
  description?: string;
}

export interface Completion {
  candidates: Candidate[];
  /** What the site knows the names of: `component`, `layer`, `type` … as the argument is called. */
  kind?: string;
  files?: true;
}

/** @param words those after `muster`, the last one being typed and maybe empty. */
export function complete(program: Command, words: string[]): Completion {
  const typed = words.at(-1) ?? "";
  let command = program;
  let position = 0;
  let expecting: Option | undefined;
  for (const word of words.slice(0, -1)) {
    if (expecting !== undefined) expecting = undefined;
    else if (word.startsWith("-")) expecting = word.includes("=") ? undefined : takingValue(optionOf(command, word));
    else {
      const below =
        position === 0
          ? command.commands.find((one) => one.name() === word || one.aliases().includes(word))
          : undefined;
      if (below === undefined) position += 1;
      else command = below;
    }
  }
  if (expecting !== undefined) return starting(typed, valuesOf(nameOf(expecting), expecting.argChoices));
  if (typed.startsWith("--") && typed.includes("=")) {
    const flag = typed.slice(0, typed.indexOf("="));
    const option = takingValue(optionOf(command, flag));
    if (option === undefined) return { candidates: [] };
    const values = valuesOf(nameOf(option), option.argChoices);
    return starting(typed, {
      ...values,
      candidates: values.candidates.map(({ word }) => ({ word: `${flag}=${word}` })),
    });
  }
  if (typed.startsWith("-")) return starting(typed, { candidates: optionCandidates(command) });
  if (command.commands.length > 0)
    return starting(typed, { candidates: position === 0 ? commandCandidates(command) : [] });
  const argument = argumentAt(command, position);
  return argument === undefined ? { candidates: [] } : starting(typed, valuesOf(argument.name(), argument.argChoices));
}

/** Keeps what begins as typed. */
export function starting(typed: string, completion: Completion): Completion {
  return { ...completion, candidates: completion.candidates.filter(({ word }) => word.startsWith(typed)) };
}

/** Names that the site can list, by the word that stands for them in arguments and options. */
export const kinds = [
  "component",
  "layer",
  "type",
  "subsystem",
  "site",
  "tag",
  "target",
  "secret",
  "dead-letter",
  "conflict",
];

function valuesOf(name: string, choices: readonly string[] | undefined): Completion {
  if (choices !== undefined) return { candidates: choices.map((word) => ({ word })) };
  if (name === "file") return { candidates: [], files: true };
  return kinds.includes(name) ? { candidates: [], kind: name } : { candidates: [] };
}

/** `<file>` of `-f, --file <file>`. */
function nameOf(option: Option): string {
  return /[<[]([\w-]+)/.exec(option.flags)?.[1] ?? "";
}

function lineage(command: Command): Command[] {
  return command.parent === null ? [command] : [command, ...lineage(command.parent)];
}

function optionOf(command: Command, flag: string): Option | undefined {
  const name = flag.split("=")[0];
  return lineage(command)
    .flatMap((one) => one.options)
    .find((option) => option.long === name || option.short === name);
}

function takingValue(option: Option | undefined): Option | undefined {
  return option?.required === true || option?.optional === true ? option : undefined;
}

function optionCandidates(command: Command): Candidate[] {
  const options = lineage(command).flatMap((one) => one.options);
  const seen = new Set<string>();
  const candidates = options.flatMap(({ long, description, hidden }) => {
    if (hidden || typeof long !== "string" || seen.has(long)) return [];
    seen.add(long);
    return [{ word: long, description }];
  });
  return [...candidates, { word: "--help", description: "show help" }];
}

function commandCandidates(command: Command): Candidate[] {
  return command
    .createHelp()
    .visibleCommands(command)
    .map((one) => ({ word: one.name(), description: one.summary() || one.description() }));
}

function argumentAt(command: Command, position: number): Argument | undefined {
  const { registeredArguments } = command;
  const last = registeredArguments.at(-1);
  return registeredArguments[position] ?? (last?.variadic === true ? last : undefined);
}
