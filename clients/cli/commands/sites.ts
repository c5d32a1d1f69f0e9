/** `muster sites`: which sites there are, how far replication with each is, adding and taking away. */
import { type Command, Option } from "commander";
import { path, shown } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { plain, type Style } from "../style.ts";
import { type Column, count, duration, table } from "../table.ts";

export interface Site {
  name: string;
  self: boolean;
  /** Whether this site replicates with it; others are known by what came through peers. */
  peer?: boolean;
  state: string;
  beatAgeMs?: number | null;
  /** `changes` counts those of this site that may not be there yet. */
  lag?: { changes: number; ms: number };
  coordinatorUrl?: string | null;
  couchdbUrl?: string;
  lastError?: string;
}

const next = { "not-found": "See which there are with: muster sites ls" };

export function siteCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("sites")
    .alias("site")
    .summary("see, add and remove sites")
    .description("See the sites that this one replicates with, add and remove them.");

  withExamples(
    group
      .command("ls")
      .description("List the sites: whether each is heard, and how far behind replication is.")
      .option("-w, --watch", "go on: list them again whenever something changes")
      .action(
        cli.does<[], { watch?: true }>(async (session, _none, { watch }) => {
          const request = { path: "/v1/sites" };
          const tell = (body: { sites: Site[] }) =>
            session.print(body, (style) => sitesText(body.sites, style, session.columns));
          if (watch) for await (const body of session.states<{ sites: Site[] }>(request)) await tell(body);
          else await tell((await session.bridge.ask<{ sites: Site[] }>(request)).body);
        }),
      ),
    { line: "muster sites ls" },
    { line: "muster sites ls -o json | jq '.sites[] | select(.state != \"up\")'" },
  );

  withExamples(
    group
      .command("add")
      .description("Replicate with another site from now on.")
      .argument("<name>", "the site's own name")
      .argument("<couchdb-url>", "its config database, with credentials where it wants them")
      .addOption(new Option("--amqp-url <url>", "its broker, for messages between the sites"))
      .action(
        cli.does<[string, string], { amqpUrl?: string }>(async (session, [name, couchdbUrl], { amqpUrl }) => {
          const body = { name, couchdbUrl, ...(amqpUrl === undefined ? {} : { amqpUrl }) };
          const answer = await session.bridge.ask({ method: "POST", path: "/v1/sites", body });
          await session.print(
            answer.body ?? { name },
            (style) => `replicating with ${style.bold(name)} at ${shown(couchdbUrl)}`,
          );
          await session.note("How far it is: muster sites ls");
        }),
      ),
    { line: "muster sites add north http://admin:secret@couch.north.example:5984" },
  );

  withExamples(
    group
      .command("rm")
      .description("Replicate with a site no longer. What it had stays here.")
      .argument("<site>", "its name")
      .action(
        cli.does<[string]>(async (session, [name]) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/sites/${name}` });
          await session.print({ name, deleted: true }, () => `no longer replicating with ${name}`);
        }, next),
      ),
    { line: "muster sites rm south" },
  );
}

export function sitesText(sites: Site[], style: Style, columns?: number): string {
  const shape: Column<Site>[] = [
    { title: "SITE", of: ({ name, self }) => (self ? `${name} (this)` : name), paint: style.bold },
    { title: "STATE", of: ({ state }) => state, paint: (cell) => siteStateText(cell, style) },
    { title: "REPLICATION", of: replicationText },
    { title: "HEARD", of: ({ beatAgeMs, self }) => (self || beatAgeMs == null ? "" : `${duration(beatAgeMs)} ago`) },
    { title: "COORDINATOR", of: ({ coordinatorUrl }) => coordinatorUrl ?? "" },
    { title: "ERROR", of: ({ lastError }) => lastError, paint: style.red, optional: true },
  ];
  return table(shape, sites, style, columns);
}

function replicationText({ self, peer, lag }: Site): string {
  if (self) return "";
  if (peer === false) return "through others";
  if (lag === undefined) return "";
  if (lag.changes === 0 && lag.ms === 0) return "in sync";
  return lag.changes === 0
    ? `${duration(lag.ms)} behind`
    : `${count(lag.changes, "change")}, ${duration(lag.ms)} behind`;
}

function siteStateText(state: string, style: Style): string {
  if (state === "up") return style.green(plain(state));
  return state === "error" ? style.red(plain(state)) : style.yellow(plain(state));
}
