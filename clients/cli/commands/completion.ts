/** `muster completion`: the scripts for shells, and the words that they ask for. */
import { Argument, type Command } from "commander";
import { type Completion, complete, starting } from "../completion.ts";
import { completionScripts } from "../completion-scripts.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { type GlobalOptions, Session } from "../session.ts";
import { plain } from "../style.ts";
import { listComponents } from "./components.ts";
import { readConflicts } from "./conflicts.ts";
import { deadLetterIds } from "./dead-letters.ts";
import type { Site } from "./sites.ts";

/** Whoever presses Tab does not wait longer. */
const timeout = "2s";
/** More names than that help nobody at a prompt. */
const componentsMax = 1_000;

export function completionCommands(program: Command, cli: Invocation): void {
  const group = withExamples(
    program
      .command("completion")
      .summary("complete commands and names with Tab")
      .description("Print a script by which a shell completes commands, options, and names of the site.")
      .addArgument(new Argument("<shell>").choices(Object.keys(completionScripts)))
      .action(
        cli.does<[keyof typeof completionScripts]>(async (session, [shell]) => {
          await session.printRaw(completionScripts[shell]);
        }),
      ),
    { line: "source <(muster completion bash)", does: "in ~/.bashrc; zsh the same in ~/.zshrc" },
    { line: "muster completion fish | source", does: "in ~/.config/fish/config.fish" },
  );

  group
    .command("words", { hidden: true })
    .argument("[words...]")
    .action(async (words: string[] = []) => {
      const typed = words.at(-1) ?? "";
      const completion = complete(program, words);
      const known = await namesOf(completion.kind, sessionOf(cli, words)).catch(() => []);
      const { candidates } = starting(typed, {
        candidates: [...completion.candidates, ...known.map((word) => ({ word }))],
      });
      cli.terminal.stdout.write(linesOf({ ...completion, candidates }));
    });
}

export function linesOf({ candidates, files }: Completion): string {
  if (files) return ":files\n";
  return candidates.map(({ word, description = "" }) => `${plain(word)}\t${plain(description)}\n`).join("");
}

/** The coordinator that the words name so far. */
function sessionOf(cli: Invocation, words: string[]): Session {
  const after = (...flags: string[]) => words[words.findIndex((word) => flags.includes(word)) + 1 || words.length];
  const [url, token] = [after("-u", "--url"), after("-t", "--token")];
  const options: GlobalOptions = { timeout, ...(url && { url }), ...(token && { token }) };
  return new Session(cli.terminal, options);
}

async function namesOf(kind: string | undefined, session: Session): Promise<string[]> {
  const ask = async <Body>(path: string) => (await session.bridge.ask<Body>({ path })).body;
  switch (kind) {
    case undefined:
      return [];
    case "site":
      return (await ask<{ sites: Site[] }>("/v1/sites")).sites.map(({ name }) => name);
    case "secret":
      return (await ask<{ secrets: { name: string }[] }>("/v1/config/secrets")).secrets.map(({ name }) => name);
    case "dead-letter":
      return await deadLetterIds(session);
    case "conflict":
      return (await readConflicts(session)).map(({ id }) => id);
    default:
      return await componentNames(kind, session);
  }
}

async function componentNames(kind: string, session: Session): Promise<string[]> {
  const components = await listComponents(session, { state: "any" }, componentsMax);
  const ids = components.map(({ id }) => id);
  const distinct = (values: (string | undefined)[]) =>
    [...new Set(values)].filter((value) => value !== undefined).sort();
  const types = distinct(components.map(({ type }) => type));
  const subsystems = distinct(components.map(({ subsystem }) => subsystem));
  const names: Record<string, string[]> = {
    component: ids,
    type: types,
    subsystem: subsystems,
    tag: distinct(components.flatMap(({ tags }) => tags ?? [])),
    layer: [
      "platform",
      ...prefixed("subsystem", subsystems),
      ...prefixed("type", types),
      ...prefixed("component", ids),
    ],
    target: ["all", ...prefixed("type", types), ...prefixed("any", types), ...ids],
  };
  return names[kind] ?? [];
}

function prefixed(scope: string, names: string[]): string[] {
  return names.map((name) => `${scope}:${name}`);
}
