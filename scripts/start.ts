import { resolve } from "node:path";
import { isMusterError } from "../config-db/errors.ts";
import { readSettings, type Settings, settingsHelp } from "../coordinator/settings.ts";
import { claimDirectory } from "./claim.ts";
import { LogFile } from "./log-file.ts";
import { chooseSite, platformServices } from "./platform.ts";
import { eventLine, logFileOf, logLine, welcome } from "./report.ts";
import { SetupError } from "./setup-error.ts";
import { stopSignal, untilAborted } from "./stop-signals.ts";
import { Supervisor } from "./supervise.ts";

const help = `Starts a site of Muster: broker, config database, coordinator and a demo. Ctrl-C stops all of it.

  npm start                                  with the demo
  npm start -- --bare                        the platform alone
  npm start -- --http-port 9090              any setting as a flag …
  MUSTER_HTTP_PORT=9090 npm start            … or as a variable
  MUSTER_AMQP_URL=amqp://user:password@host npm start -- --bare

Settings
  --bare                                             leave the demo out
${settingsHelp()}`;

/** What a coordinator, a broker and a demo may take to drain before leftovers of theirs are killed. */
const stopTimeoutMs = 20_000;
const stillEveryMs = 5_000;

/** Runs the platform until it is told to stop. Sets the process's exit code. */
export async function main(argv: string[]): Promise<void> {
  if (argv.includes("--help") || argv.includes("-h")) {
    console.log(help);
    return;
  }
  try {
    const rest = argv.filter((argument) => argument !== "--bare");
    await run(readSettings(rest, process.env), rest, !argv.includes("--bare"));
  } catch (error) {
    if (!(error instanceof SetupError) && !isMusterError(error)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}

async function run(settings: Settings, argv: string[], demo: boolean): Promise<void> {
  const begunAt = performance.now();
  const stopping = await stopSignal();
  const progress = (service: string, line: string) => console.log(`${service}: ${line}`);
  // Claimed first: it ends what a killed start left behind, which may hold the ports.
  const claim = await claimDirectory(resolve(settings.dataDir), {
    what: "Muster",
    progress: (line) => progress("muster", line),
    stopTimeoutMs,
  });
  try {
    const site = await chooseSite(settings);
    const log = new LogFile(logFileOf(site));
    const services = platformServices({
      site,
      argv,
      demo,
      claim,
      progress,
      onLine: (service, line) => {
        if (service === "coordinator") log.write(line);
        const shown = service === "coordinator" ? logLine(line) : line;
        if (shown !== undefined) console.log(shown);
      },
    });
    const waiting = new Map<string, number>();
    const supervisor = new Supervisor(services, {
      onEvent: (event) => {
        progress(event.service, eventLine(event));
        if (event.type === "starting") waiting.set(event.service, performance.now());
        else waiting.delete(event.service);
      },
    });
    stopping.addEventListener("abort", () => {
      console.log(`\nmuster: stopping (${stopping.reason})`);
      void supervisor.close();
    });
    const quiet = tellWaits(waiting, progress);
    try {
      await supervisor.start();
    } catch (error) {
      if (!stopping.aborted) throw error;
    } finally {
      quiet();
    }
    if (!stopping.aborted) console.log(welcome(site, (performance.now() - begunAt) / 1000));
    await untilAborted(stopping);
    await supervisor.close();
  } finally {
    await claim.release();
  }
  console.log("muster: stopped");
}

/** Tells every few seconds what a start is still waiting for. Call what it returns to end that. */
function tellWaits(waiting: Map<string, number>, progress: (service: string, line: string) => void): () => void {
  const timer = setInterval(() => {
    for (const [service, begunAt] of waiting) {
      progress(service, `still starting, ${((performance.now() - begunAt) / 1000).toFixed(0)} s`);
    }
  }, stillEveryMs);
  return () => clearInterval(timer);
}
