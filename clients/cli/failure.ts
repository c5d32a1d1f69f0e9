/** Errors as an operator reads them: what was wrong, where, and what to do next. */
import { errorCodes, type FieldError, type MusterError } from "../../config-db/errors.ts";
import type { Problem } from "../../config-db/generated/types.ts";
import { plain, type Style, short } from "./style.ts";

/** What helps after an error, by the error's code; where a command knows better, it says so with `next`. */
const nextSteps: Partial<Record<MusterError["code"], string>> = {
  "invalid-request": "See the command's --help.",
  unauthorized:
    "Give the operator's token with --token or MUSTER_TOKEN; the coordinator keeps it in <data-dir>/operator-token.",
  forbidden: "Use the URL by which the coordinator expects to be called, or another token.",
  "not-found": "See what there is with the ls command of the same group.",
  "no-such-target": "See who is there with: muster components ls --state any",
  "not-registered": "See who is there with: muster components ls --state any",
  "no-such-route": "This coordinator does not offer that; see what it does at /docs of its URL.",
  conflict: "Nothing was written. Look at what changed, then try again.",
  "precondition-failed": "Nothing was written. Look at what changed, then try again.",
  refused: "Nothing was written. Correct it and try again.",
  "handler-failed": "The component got it and could not do it: its log says more.",
  "deadline-exceeded":
    "Give it longer with --timeout, or send a command, which waits in the component's queue: muster send",
  "store-unavailable": "Look at the coordinator's log and at muster status, then try again.",
  "broker-unavailable":
    "Messages need a broker, and a station has none: use --url of the site itself. See muster status.",
  "not-leading": "Try again: another coordinator is taking over.",
  unreachable: "Is it running? npm start starts one here; name another with --url or MUSTER_URL.",
  internal: "Look at the coordinator's log.",
};

export function describeFailure(error: MusterError, style: Style, next = nextSteps[error.code]): string {
  const lines = [
    `${style.red("error:")} ${error.message.split("\n").map(plain).join("\n  ")} ${style.dim(`(${error.code})`)}`,
  ];
  lines.push(...faultLines(error.errors ?? [], style));
  if (error.retryAfterMs !== undefined) lines.push(`It may work again in ${Math.ceil(error.retryAfterMs / 1000)} s.`);
  if (next !== undefined) lines.push(`${style.dim("next:")} ${next}`);
  return lines.join("\n");
}

/** So many faults, and names within one, are shown. */
const shownMax = { faults: 20, names: 5 };

/** A line for each fault; the same one of several components is told once. */
export function faultLines(faults: FieldError[], style: Style): string[] {
  const alike = new Map<string, FieldError[]>();
  for (const fault of faults) {
    const what = JSON.stringify([fault.pointer, fault.message, fault.value]);
    alike.set(what, [...(alike.get(what) ?? []), fault]);
  }
  const lines = [...alike.values()].map((group) => `  ${describeFault(group, style)}`);
  const more = lines.length - shownMax.faults;
  return more <= 0 ? lines : [...lines.slice(0, shownMax.faults), `  … and ${more} more; see all with -o json`];
}

/** Where, what, the value that is wrong, whom it would break. */
function describeFault(group: FieldError[], style: Style): string {
  const [{ pointer, message, value }] = group as [FieldError];
  const where = style.yellow(plain(pointer === "" ? "/" : pointer));
  const got = value === undefined ? "" : `, got ${short(value)}`;
  const names = group.flatMap(({ component }) => (component === undefined ? [] : [plain(component)]));
  const more = names.length > shownMax.names ? ` and ${names.length - shownMax.names} more` : "";
  const whom = names.length === 0 ? "" : style.dim(` (${names.slice(0, shownMax.names).join(", ")}${more})`);
  return `${where} ${plain(message)}${got}${whom}`;
}

/** The error as problem+json, for `-o json`: the coordinator's own words where they are its own. */
export function problemOf(error: MusterError): Problem {
  const told = error.cause as Partial<Problem> | undefined;
  if (typeof told?.code === "string" && typeof told.status === "number") return told as Problem;
  const { status, title } = errorCodes[error.code];
  const errors = error.errors === undefined ? {} : { errors: error.errors };
  return { type: `urn:muster:error:${error.code}`, title, status, code: error.code, detail: error.message, ...errors };
}
