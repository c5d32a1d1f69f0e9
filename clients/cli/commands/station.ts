/** `muster station`: a coordinator with its own replica on this machine, which works offline. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { withExamples } from "../examples.ts";
import { exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { findPeer } from "../station/peer.ts";
import { startCoordinator } from "../station/process.ts";
import { readStation, rememberStation, type Station, withPeer } from "../station/record.ts";
import { plain } from "../style.ts";
import { parseCount } from "../values.ts";
import { type Site, sitesText } from "./sites.ts";

interface StationOptions {
  site?: string;
  couchdbUrl?: string;
  siteName?: string;
  name?: string;
  dataDir: string;
  httpPort?: number;
  couchdbPort?: number;
}

const port = parseCount(0, 65_535);

export function stationCommands(program: Command, cli: Invocation): void {
  withExamples(
    program
      .command("station")
      .summary("work offline: a replica and a coordinator on this machine")
      .description(
        `Run a station: a coordinator with a replica of a site on this machine, until Ctrl-C.

It reads and changes configuration while the site cannot be reached, and replicates both ways when it can. What it has
is kept in its data directory: started again it goes on from there, also offline and without --site.`,
      )
      .option("--site <url>", "the site's bridge, or its CouchDB; needed the first time")
      .option(
        "--couchdb-url <url>",
        "the site's CouchDB, where the bridge cannot say it: with credentials, or behind a proxy",
      )
      .option("--site-name <site>", "the site's name, where its CouchDB knows several")
      .option("--name <name>", "the station's own name; made up and kept, unless given")
      .option("--data-dir <directory>", "all that it keeps", join(homedir(), ".muster", "station"))
      .option("--http-port <port>", "of its bridge; 8090 unless given, then kept; 0 takes a free one", port)
      .option("--couchdb-port <port>", "of its replica; 5990 unless given, then kept; 0 takes a free one", port)
      .action(cli.does<[], StationOptions>((session, _none, options) => station(session, options))),
    { line: "muster station --site http://127.0.0.1:8080", does: "the first time" },
    { line: "muster station", does: "from then on, online or not" },
    { line: "muster status --url http://127.0.0.1:8090", does: "in another terminal" },
  );
}

async function station(session: Session, options: StationOptions) {
  const dataDir = resolve(options.dataDir);
  let record: Station = await readStation(dataDir, options);
  const peer = await findPeer(session, record, options);
  record = withPeer(record, peer);
  const coordinator = await startCoordinator(record, dataDir, session.terminal);
  try {
    await rememberStation(dataDir, record);
    const { url } = coordinator;
    await session.print({ station: record.site, url, dataDir, peers: record.peers.map(({ name }) => name) }, (style) =>
      [
        `${style.bold(`station ${plain(record.site)}`)} at ${style.cyan(url)}, replicating with ${record.peers.map(({ name }) => plain(name)).join(", ")}`,
        style.dim(`Use it from another terminal: export MUSTER_URL=${url}`),
        style.dim(`Its data and its log are in ${dataDir}. Ctrl-C stops it.`),
      ].join("\n"),
    );
    await Promise.race([coordinator.failed, follow(session, url)]);
    return exitCodes.ok;
  } finally {
    await coordinator.close();
  }
}

/** Tells how the peers are whenever that changes. */
async function follow(session: Session, url: string): Promise<void> {
  const own = session.at(url);
  let told = "";
  for await (const { sites } of own.states<{ sites: Site[] }>({ path: "/v1/sites" })) {
    const peers = sites.filter(({ self }) => !self);
    const state = peers
      .map((peer) => `${peer.name} ${peer.state} ${peer.lag?.changes ?? 0} ${peer.lastError ?? ""}`)
      .join();
    if (state === told || peers.length === 0) continue;
    told = state;
    await own.print({ sites: peers }, (style) => sitesText(peers, style, own.columns));
  }
}
