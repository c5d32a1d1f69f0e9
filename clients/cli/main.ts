/** The process of the `muster` command: the only file of it that touches the process's streams, signals and environment. */
import { userInfo } from "node:os";
import { run } from "./run.ts";

const interrupt = new AbortController();
let areInterruptsYielded = false;
process.on("SIGINT", () => {
  if (areInterruptsYielded) return;
  // The first Ctrl-C ends what is open in order; the second does not wait for that.
  if (interrupt.signal.aborted) process.exit(130);
  interrupt.abort();
});
process.once("SIGTERM", () => interrupt.abort());

for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    // The reader has seen enough, as in `muster events | head -1`: that is no fault of anyone's.
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
}

process.exitCode = await run(process.argv.slice(2), {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: { USER: userName(), ...process.env },
  signal: interrupt.signal,
  yieldInterrupts: () => {
    areInterruptsYielded = true;
    return () => {
      areInterruptsYielded = false;
    };
  },
});

/** Services and containers may run as a user without a name. */
function userName(): string | undefined {
  try {
    return userInfo().username;
  } catch {
    return undefined;
  }
}
