/** What a run of the command may touch of the world outside: main.ts gives the process's, tests give their own. */
import type { Readable, Writable } from "node:stream";

/** A stream that may be a terminal. */
export type Screen = Writable & { isTTY?: boolean; columns?: number; hasColors?: (env: object) => boolean };

export interface Terminal {
  stdin: Readable & { isTTY?: boolean };
  stdout: Screen;
  stderr: Screen;
  env: Record<string, string | undefined>;
  /** Aborts on Ctrl-C. */
  signal: AbortSignal;
  /** Leaves Ctrl-C to another program that has the terminal, such as an editor. @returns what takes it back */
  yieldInterrupts?(): () => void;
}

/**
 * Whether to colour what goes to `screen`: FORCE_COLOR and NO_COLOR (https://no-color.org) first, then whether it is a
 * terminal that has colours.
 */
export function wantsColor(screen: Screen, env: Terminal["env"]): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== "") return false;
  if (env.FORCE_COLOR !== undefined) return env.FORCE_COLOR !== "0" && env.FORCE_COLOR !== "false";
  return screen.isTTY === true && screen.hasColors?.(env) === true;
}
