/** The command tree: global options, and one file of `commands/` for each group. */
import { readFileSync } from "node:fs";
import { Command, Help, Option } from "commander";
import { completionCommands } from "./commands/completion.ts";
import { componentCommands } from "./commands/components.ts";
import { configChangeCommands } from "./commands/config-change.ts";
import { configReadCommands } from "./commands/config-read.ts";
import { configStageCommands } from "./commands/config-stage.ts";
import { configStatusCommands } from "./commands/config-status.ts";
import { conflictCommands } from "./commands/conflicts.ts";
import { contentCommands } from "./commands/content.ts";
import { deadLetterCommands } from "./commands/dead-letters.ts";
import { messageCommands } from "./commands/messages.ts";
import { schemaCommands } from "./commands/schema.ts";
import { secretCommands } from "./commands/secrets.ts";
import { siteCommands } from "./commands/sites.ts";
import { stationCommands } from "./commands/station.ts";
import { statusCommands } from "./commands/status.ts";
import { streamCommands } from "./commands/streams.ts";
import { typesCommands } from "./commands/types.ts";
import { withExamples, withExamplesOfGroups } from "./examples.ts";
import { exitCodeMeanings } from "./exit-codes.ts";
import type { Invocation } from "./invocation.ts";
import { defaultUrl } from "./session.ts";
import { wantsColor } from "./terminal.ts";

export function createProgram(invocation: Invocation): Command {
  const { stdout, stderr, env } = invocation.terminal;
  const program = new Command("muster")
    .description("See and steer a system that Muster coordinates: its components, configuration, messages and sites.")
    .usage("<command> …")
    .version(version(), "-V, --version", "print the version")
    .helpOption("-h, --help", "show this")
    .configureOutput({
      writeOut: (text) => void stdout.write(text),
      writeErr: (text) => void stderr.write(text),
      outputError: () => {}, // run.ts tells it
      getOutHelpWidth: () => (stdout.isTTY === true ? (stdout.columns ?? 80) : 100),
      getErrHelpWidth: () => (stderr.isTTY === true ? (stderr.columns ?? 80) : 100),
      getOutHasColors: () => wantsColor(stdout, env),
      getErrHasColors: () => wantsColor(stderr, env),
    })
    .configureHelp({ showGlobalOptions: true, subcommandTerm: termOf })
    .exitOverride()
    .addOption(
      new Option("-u, --url <url>", `the coordinator, commas between several; else MUSTER_URL, else ${defaultUrl}`),
    )
    .addOption(new Option("-t, --token <token>", "the operator's token; else MUSTER_TOKEN"))
    .addOption(new Option("-o, --output <format>", "how to answer").choices(["table", "json"]).default("table"))
    .addOption(new Option("--timeout <duration>", "how long an answer may take").default("30s"))
    .addOption(new Option("--as <name>", "who changes what, for the history; else the user's name here"));

  program.commandsGroup("Overview:");
  statusCommands(program, invocation);
  program.commandsGroup("Components:");
  componentCommands(program, invocation);
  program.commandsGroup("Configuration:");
  const config = program.command("config").summary("read, change and stage settings").description(configDescription);
  configReadCommands(config, invocation);
  configChangeCommands(config, invocation);
  configStatusCommands(config, invocation);
  configStageCommands(config, invocation);
  contentCommands(config, invocation);
  schemaCommands(program, invocation);
  typesCommands(program, invocation);
  secretCommands(program, invocation);
  program.commandsGroup("Messages:");
  messageCommands(program, invocation);
  streamCommands(program, invocation);
  deadLetterCommands(program, invocation);
  program.commandsGroup("Sites:");
  siteCommands(program, invocation);
  conflictCommands(program, invocation);
  stationCommands(program, invocation);
  program.commandsGroup("Shell:");
  completionCommands(program, invocation);
  program.helpCommand("help [command]", "show the help of a command");

  withExamplesOfGroups(program);
  withExamples(
    program,
    { line: "muster status", does: "how the site is" },
    { line: "muster components ls --type collector", does: "who is there" },
    { line: "muster config set type:collector samplingIntervalMs=500", does: "change a setting of all collectors" },
    { line: "muster config status --type collector", does: "who has applied it" },
  );
  return program.addHelpText("after", () => `\nExit codes:\n${exitCodesText()}`);
}

const configDescription = `Read, change and stage settings.

A layer is platform, subsystem:<s>, type:<t> or component:<id>. A component's effective settings are the four merged,
the component's own layer strongest. A change that would make any component's settings invalid is refused.`;

/** Names of commands without their arguments: the arguments stand in each command's own help. */
function termOf(this: Help, command: Command): string {
  const term = Help.prototype.subcommandTerm.call(this, command);
  return command.commands.length > 0 ? command.name() : term.replace(" [options]", "");
}

function exitCodesText(): string {
  return Object.entries(exitCodeMeanings)
    .map(([code, meaning]) => `  ${code.padEnd(4)} ${meaning}`)
    .join("\n");
}

function version(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
