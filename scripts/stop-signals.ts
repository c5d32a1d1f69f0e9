import { killTiedGroups } from "./lifeline.ts";

const signals: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** npm passes on the Ctrl-C that the terminal has already sent to all: only a later one is a second wish. */
const sameWishMs = 1_000;
const parentEveryMs = 1_000;

/**
 * Aborts when this process is told to stop: Ctrl-C, SIGTERM, a closed terminal, or the end of the npm that runs it.
 * A second Ctrl-C ends everything at once and by force.
 */
export function stopSignal(): AbortSignal {
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
  if (process.env.npm_lifecycle_event !== undefined) {
    const parent = process.ppid;
    setInterval(() => {
      if (process.ppid !== parent) stopping.abort("npm has ended");
    }, parentEveryMs).unref();
  }
  return stopping.signal;
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
