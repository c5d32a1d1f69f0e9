/** `muster station`: a coordinator with its own replica on this machine, which works offline. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { followStation } from "../station/follow.ts";
import { findPeer } from "../station/peer.ts";
import { startCoordinator } from "../station/process.ts";
import { readStation, rememberStation, type Station, withPeer } from "../station/record.ts";
import { plain } from "../style.ts";
import { parseCount } from "../values.ts";

interface StationOptions {
  site?: string;
  couchdbUrl?: string;
  name?: string;
  dataDir: string;
  httpPort?: number;
  couchdbPort?: number;
}

const port = parseCount(0, 65_535);
const next = {
  refused:
    "Choose another port with --http-port or --couchdb-port, or another directory with --data-dir; its log says more.",
  unreachable: "The first time a station needs its site; from then on it starts without.",
};

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
      .option("--name <name>", "the station's own name; made up and kept, unless given")
      .option("--data-dir <directory>", "all that it keeps", join(homedir(), ".muster", "station"))
      .option("--http-port <port>", "of its bridge; 8090 unless given, then kept; 0 takes a free one", port)
      .option("--couchdb-port <port>", "of its replica; 5990 unless given, then kept; 0 takes a free one", port)
      .action(cli.does<[], StationOptions>((session, _none, options) => station(session, options), next)),
    { line: "muster station --site http://127.0.0.1:8080", does: "the first time" },
    { line: "muster station", does: "from then on, online or not" },
    { line: "muster status --url http://127.0.0.1:8090", does: "in another terminal" },
  );
}

async function station(session: Session, options: StationOptions): Promise<never> {
  const dataDir = resolve(options.dataDir);
  let record: Station = await readStation(dataDir, options);
  const peer = await findPeer(session, record, options);
  record = withPeer(record, peer);
  const coordinator = await startCoordinator(record, dataDir, session.terminal);
  try {
    await rememberStation(dataDir, record);
    const { url } = coordinator;
    const peers = record.peers.map(({ name }) => plain(name));
    const started = { station: record.site, url, dataDir, peers };
    await session.printEvent({ event: "started", data: started }, (style) =>
      [
        `${style.bold(`station ${record.site}`)} at ${style.cyan(url)}, replicating with ${peers.join(", ")}`,
        style.dim(`Use it from another terminal: export MUSTER_URL=${url}`),
        style.dim(`Its data and its log are in ${dataDir}. Ctrl-C stops it.`),
      ].join("\n"),
    );
    return await Promise.race([coordinator.failed, followStation(session.at(url), record.site, dataDir)]);
  } finally {
    await coordinator.close();
  }
}
