/** One run of the command line: ties what commander parsed to a session, and keeps how it ends. */
import type { Command } from "commander";
import type { ErrorCode } from "../../config-db/errors.ts";
import { type ExitCode, exitCodes } from "./exit-codes.ts";
import { type GlobalOptions, Session } from "./session.ts";
import type { Terminal } from "./terminal.ts";

/** What to do after an error, where a command knows better than failure.ts. */
export type NextSteps = Partial<Record<ErrorCode, string>>;

export class Invocation {
  readonly terminal: Terminal;
  exitCode: ExitCode = exitCodes.ok;
  next: NextSteps = {};

  constructor(terminal: Terminal) {
    this.terminal = terminal;
  }

  /** A commander action that runs `act` with a session, the positional arguments and the command's own options. */
  does<Positional extends unknown[], Options = Record<string, never>>(
    act: (session: Session, positional: Positional, options: Options) => Promise<ExitCode | undefined> | Promise<void>,
    next: NextSteps = {},
  ): (...given: unknown[]) => Promise<void> {
    return async (...given) => {
      const command = given.at(-1) as Command;
      this.next = next;
      const session = new Session(this.terminal, command.optsWithGlobals<GlobalOptions>());
      const positional = given.slice(0, -2) as Positional;
      this.exitCode = (await act(session, positional, command.opts<Options & object>())) ?? exitCodes.ok;
    };
  }
}
