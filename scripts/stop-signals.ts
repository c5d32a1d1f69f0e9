import { readFile } from "node:fs/promises";
import { killTiedGroups } from "./lifeline.ts";
import { identifyProcess, isRunning, type ProcessIdentity, parentOf } from "./process-identity.ts";

const signals: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** npm passes on the Ctrl-C that the terminal has already sent to all: only a later one is a second wish. */
const sameWishMs = 1_000;
const npmEveryMs = 1_000;

/**
 * Aborts when this process is told to stop: Ctrl-C, SIGTERM, a closed terminal, or the end of the npm that runs it.
 * A second Ctrl-C ends everything at once and by force.
 */
export async function stopSignal(): Promise<AbortSignal> {
  const stopping = new AbortController();
  let askedAt: number | undefined;
  for (const signal of signals) {
    process.on(signal, () => {
      askedAt ??= performance.now();
      stopping.abort(signal);
      if (performance.now() - askedAt < sameWishMs) return;
      killTiedGroups();
      process.exit(1);
    });
  }
  // A terminal or pipe that is gone must not keep the rest from being stopped in order.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
  const above = await processesOfNpm();
  const watch = async () => {
    const running = await Promise.all(above.map(isRunning));
    if (running.includes(false)) stopping.abort("npm has ended");
  };
  if (above.length > 0) setInterval(() => void watch(), npmEveryMs).unref();
  return stopping.signal;
}

/**
 * The processes of the npm that runs this one, none when it was not started by npm. npm hands SIGTERM to the shell between
 * them, which dies of it without a word to this process; and a killed npm tells nobody.
 */
async function processesOfNpm(): Promise<ProcessIdentity[]> {
  const script = process.env.npm_lifecycle_script;
  if (script === undefined) return [];
  const command = await readFile(`/proc/${process.ppid}/cmdline`, "utf8").catch(() => "");
  const pids = [process.ppid];
  if (command.includes(script)) pids.push((await parentOf(process.ppid)) ?? process.ppid);
  const identities = await Promise.all(pids.map(identifyProcess));
  return identities.filter((identity) => identity !== undefined);
}

/** Resolves once `signal` is aborted, and keeps this process alive until then. */
export async function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const keepAlive = setInterval(() => undefined, 60_000);
    signal.addEventListener("abort", () => {
      clearInterval(keepAlive);
      resolve();
    });
  });
}
