/**
 * Examples of every command: shown by its `--help`, run by test/integration/cli-examples.test.ts. That test has a site
 * where what they name exists (a type `collector`, a component `collector-1` …).
 */
import type { Command } from "commander";

export interface Example {
  /** As it is typed in a shell. */
  line: string;
  /** What it does, where the line does not say it. */
  does?: string;
}

const groupExamplesMax = 5;
const examples = new WeakMap<Command, Example[]>();

/** Gives `command` its examples. @returns the command. */
export function withExamples(command: Command, ...given: Example[]): Command {
  examples.set(command, given);
  return command.addHelpText("after", () => `\nExamples:\n${given.map(exampleText).join("\n\n")}`);
}

/** Gives groups of commands under `command` that have no examples of their own one of each of their first commands. */
export function withExamplesOfGroups(command: Command): void {
  for (const group of command.commands.filter(({ commands }) => commands.length > 0)) {
    withExamplesOfGroups(group);
    if (examplesOf(group).length > 0) continue;
    withExamples(group, ...group.commands.flatMap((one) => examplesOf(one).slice(0, 1)).slice(0, groupExamplesMax));
  }
}

function exampleText({ line, does }: Example): string {
  return does === undefined ? `  ${line}` : `  # ${does}\n  ${line}`;
}

export function examplesOf(command: Command): Example[] {
  return examples.get(command) ?? [];
}
