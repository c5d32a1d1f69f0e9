/** `muster status`: how the site is, on one screen. */
import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import { isMusterError, MusterError } from "../../../config-db/errors.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { plain, type Style } from "../style.ts";
import { count, details } from "../table.ts";
import { type Component, listComponents, stateText } from "./components.ts";
import { countsText as configText, type StatusCounts } from "./config-status.ts";
import { type Conflict, readConflicts } from "./conflicts.ts";
import { deadLetterIds } from "./dead-letters.ts";
import { type Site, sitesText } from "./sites.ts";

/** There is no one thing to wait for: it is asked again. */
const watchEveryMs = 1_000;

/** A part that this bridge does not have, or cannot tell of at the moment. */
interface Unknown {
  error: string;
}

interface Overview {
  url: string;
  ready: boolean;
  parts: Record<string, string>;
  components: Record<string, number> | Unknown;
  configuration: StatusCounts | Unknown;
  conflicts: number | Unknown;
  deadLetters: number | Unknown;
  sites: Site[] | Unknown;
}

export function statusCommands(program: Command, cli: Invocation): void {
  withExamples(
    program
      .command("status")
      .summary("show how the site is")
      .description(
        "Show how the site is: its parts, components, configuration, conflicts and peers. Ends with 4 when it is not ready.",
      )
      .option("-w, --watch", "go on: show it again whenever it is another")
      .action(
        cli.does<[], { watch?: true }>(async (session, _none, { watch }): Promise<ExitCode> => {
          const tell = (overview: Overview) =>
            session.print(overview, (style) => overviewText(overview, style, session.columns));
          if (watch) for await (const overview of overviews(session)) await tell(overview);
          const overview = await overviewOf(session);
          await tell(overview);
          return overview.ready ? exitCodes.ok : exitCodes.unreachable;
        }),
      ),
    { line: "muster status" },
    { line: "muster status --watch", does: "again whenever it is another" },
    { line: "muster status --url http://127.0.0.1:8080", does: "of another coordinator" },
    { line: "muster status -o json | jq .components" },
  );
}

async function overviewOf(session: Session): Promise<Overview> {
  const { bridge } = session;
  // First and alone: when nobody answers, that is the one thing to say.
  const ready = await bridge.ask<{ ready: boolean } & Record<string, string>>({ path: "/readyz", accepts: 503 });
  if (typeof ready.body?.ready !== "boolean")
    throw new MusterError("unreachable", `${bridge.url} answers, but is no Muster bridge`);
  const { ready: isReady, ...parts } = ready.body;
  const [components, configuration, conflicts, deadLetters, sites] = await Promise.all([
    orWhy(listComponents(session, { state: "any" }).then(countStates)),
    orWhy(bridge.ask<StatusCounts>({ path: "/v1/config/status" }).then(({ body }) => withoutList(body))),
    orWhy<number>(readConflicts(session).then((found: Conflict[]) => found.length)),
    orWhy<number>(deadLetterIds(session).then((found) => found.length)),
    orWhy(bridge.ask<{ sites: Site[] }>({ path: "/v1/sites" }).then(({ body }) => body.sites)),
  ]);
  return { url: bridge.url, ready: isReady, parts, components, configuration, conflicts, deadLetters, sites };
}

/** Each that differs from the one before, until the session ends. A coordinator that is away is told of, and waited for. */
async function* overviews(session: Session): AsyncGenerator<Overview> {
  const { signal } = session.terminal;
  for (let shown = ""; ; await delay(watchEveryMs, undefined, { signal })) {
    try {
      const overview = await overviewOf(session);
      const now = JSON.stringify(overview, (name, value) =>
        name === "beatAgeMs" || name === "lag" ? undefined : value,
      );
      if (now !== shown) yield overview;
      shown = now;
    } catch (error) {
      if (signal.aborted || !isMusterError(error) || error.status < 500) throw error;
      if (error.message !== shown) await session.note(`${error.message}; asking again …`);
      shown = error.message;
    }
  }
}

/** One part that fails must not hide the others; not being let in concerns them all. */
async function orWhy<T>(asked: Promise<T>): Promise<T | Unknown> {
  try {
    return await asked;
  } catch (error) {
    if (!isMusterError(error) || error.code === "unauthorized" || error.code === "forbidden") throw error;
    return { error: error.code === "no-such-route" ? "not offered by this coordinator" : error.message };
  }
}

function countStates(components: Component[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { state } of components) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

function withoutList({ total, applied, rejected, pending }: StatusCounts) {
  return { total, applied, rejected, pending };
}

function isUnknown(value: unknown): value is Unknown {
  return typeof value === "object" && value !== null && typeof (value as Unknown).error === "string";
}

function overviewText(overview: Overview, style: Style, columns?: number): string {
  const { url, ready, parts, components, configuration, conflicts, deadLetters, sites } = overview;
  const told = <T>(value: T | Unknown, text: (known: T) => string) =>
    isUnknown(value) ? style.dim(plain(value.error)) : text(value);
  const many = (amount: number, one: string) =>
    amount === 0 ? style.dim(`no ${one}s`) : style.yellow(count(amount, one));
  const states = Object.entries(parts).map(
    ([part, state]) => `${plain(part)} ${state === "ok" ? style.green("ok") : style.red(plain(String(state)))}`,
  );
  const head = details(
    [
      ["coordinator", `${style.bold(url)} ${ready ? style.green("ready") : style.red("not ready")}`],
      ["parts", states.join(", ")],
      ["components", told(components, (counts) => countsText(counts, style))],
      ["configuration", told(configuration, (status) => configText(status, style))],
      [
        "conflicts",
        told(conflicts, (amount) => many(amount, "conflict") + (amount > 0 ? style.dim("  muster conflicts ls") : "")),
      ],
      [
        "dead letters",
        told(
          deadLetters,
          (amount) => many(amount, "dead letter") + (amount > 0 ? style.dim("  muster dead-letters ls") : ""),
        ),
      ],
      ["sites", isUnknown(sites) ? style.dim(plain(sites.error)) : ""],
    ],
    style,
  );
  return isUnknown(sites) || sites.length === 0 ? head : `${head}\n\n${sitesText(sites, style, columns)}`;
}

function countsText(counts: Record<string, number>, style: Style): string {
  const entries = Object.entries(counts);
  if (entries.length === 0) return style.dim("none");
  const order = ["up", "unverified", "expired", "gone"];
  return entries
    .sort(([a], [b]) => order.indexOf(a) - order.indexOf(b))
    .map(([state, amount]) => `${amount} ${stateText(state, style)}`)
    .join(", ");
}
