/** How the command ends: scripts branch on these, so they are added to and never renumbered. docs/cli.md lists them. */
import type { ErrorCode } from "../../config-db/errors.ts";
import { errorCodes } from "../../config-db/errors.ts";

export const exitCodes = {
  ok: 0,
  /** Refused by the coordinator, or done and failed: an invalid layer, a command that its target could not do. */
  failed: 1,
  /** The command line, or a file or value that it names, is wrong. Nothing was sent, or it was malformed. */
  usage: 2,
  notFound: 3,
  /** No coordinator answers, or it lacks its store or broker at the moment. */
  unreachable: 4,
  /** Someone else changed it meanwhile. Nothing was written. */
  conflict: 5,
  timeout: 6,
  denied: 7,
  /** SIGINT, as shells count it. */
  interrupted: 130,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** What each means, for `--help` and docs/cli.md. */
export const exitCodeMeanings: Record<ExitCode, string> = {
  0: "done",
  1: "refused, or done and failed",
  2: "wrong usage: the command line or a file it names",
  3: "not found",
  4: "no coordinator answers, or its store or broker does not",
  5: "changed by someone else meanwhile; nothing was written",
  6: "no answer in time",
  7: "no token, or one that does not allow this",
  130: "interrupted",
};

export function exitCodeOf(code: ErrorCode): ExitCode {
  // A route that is not there says nothing about the thing that was asked for: a script must not take it for "not found".
  if (code === "no-such-route") return exitCodes.failed;
  const { status } = errorCodes[code];
  if (status === 400) return exitCodes.usage;
  if (status === 401 || status === 403) return exitCodes.denied;
  if (status === 404) return exitCodes.notFound;
  if (status === 409 || status === 412) return exitCodes.conflict;
  if (status === 503) return exitCodes.unreachable;
  if (status === 504) return exitCodes.timeout;
  return exitCodes.failed;
}
