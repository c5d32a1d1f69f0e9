/** Runs one command line to its exit code. Every error ends here, as words or as problem+json. */
import { type Command, CommanderError } from "commander";
import { MusterError } from "../../config-db/errors.ts";
import { type ExitCode, exitCodeOf, exitCodes } from "./exit-codes.ts";
import { describeFailure, problemOf } from "./failure.ts";
import { Invocation } from "./invocation.ts";
import { createProgram } from "./program.ts";
import { jsonText, style } from "./style.ts";
import { type Terminal, wantsColor } from "./terminal.ts";

/** @param argv without node and script: `["components", "ls"]`. Never throws for what the user or the site did wrong. */
export async function run(argv: string[], terminal: Terminal): Promise<ExitCode> {
  const invocation = new Invocation(terminal);
  const program = createProgram(invocation);
  try {
    await program.parseAsync(argv, { from: "user" });
    return invocation.exitCode;
  } catch (error) {
    if (terminal.signal.aborted) return exitCodes.interrupted;
    if (error instanceof CommanderError) return usage(error, program, argv, terminal);
    if (!(error instanceof MusterError)) throw error;
    tell(error, terminal, program.opts().output === "json", invocation.next[error.code]);
    return exitCodeOf(error.code);
  }
}

/** Commander has written its help; its errors are told here, in the same form as all others. */
function usage(error: CommanderError, program: Command, argv: string[], terminal: Terminal): ExitCode {
  if (["commander.helpDisplayed", "commander.version"].includes(error.code)) return exitCodes.ok;
  if (error.code === "commander.help") return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  const { stderr, env } = terminal;
  const { red, dim } = style(wantsColor(stderr, env));
  const message = error.message.replace(/^error: /, "").replaceAll("\n", " ");
  stderr.write(`${red("error:")} ${message}\n${dim("next:")} See ${nearest(program, argv)} --help\n`);
  return exitCodes.usage;
}

/** The command that the words get to: `muster config` for `muster config gte`. */
function nearest(program: Command, argv: string[]): string {
  let command = program;
  const names = [program.name()];
  for (const word of argv) {
    const below = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    if (below === undefined) continue;
    command = below;
    names.push(below.name());
  }
  return names.join(" ");
}

function tell(error: MusterError, { stderr, env }: Terminal, asJson: boolean, next: string | undefined): void {
  const text = asJson ? jsonText(problemOf(error)) : describeFailure(error, style(wantsColor(stderr, env)), next);
  stderr.write(`${text}\n`);
}
