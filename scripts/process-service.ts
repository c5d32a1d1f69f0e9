import { setTimeout as delay } from "node:timers/promises";
import { eachLine } from "./command.ts";
import { startGroup } from "./process-group.ts";
import { SetupError } from "./setup-error.ts";
import type { RunningService, Service } from "./supervise.ts";

export interface ProcessServiceOptions {
  name: string;
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Told every line of both outputs. */
  onLine?: (line: string) => void;
  /** True once it serves; asked every 50 ms. Without it the service is ready as soon as its process runs. */
  isReady?: () => Promise<boolean>;
  readyTimeoutMs?: number;
  /** What it has to drain after SIGTERM, before SIGKILL. */
  stopTimeoutMs?: number;
}

/** Lines kept of a process that fails to start and that nobody listens to: enough for a stack. */
const tailLines = 20;

/** A program of its own as a service: its process leads a group, and is ended with all that it started. */
export function processService(options: ProcessServiceOptions): Service {
  return { name: options.name, start: async (signal) => await startProcess(options, signal) };
}

async function startProcess(options: ProcessServiceOptions, signal: AbortSignal): Promise<RunningService> {
  const { readyTimeoutMs = 60_000, stopTimeoutMs = 15_000 } = options;
  const group = await startGroup(options.command, options.args, {
    env: options.env ?? process.env,
    ...(options.cwd !== undefined && { cwd: options.cwd }),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const tail: string[] = [];
  for (const stream of [group.child.stdout, group.child.stderr]) {
    if (!stream) continue;
    eachLine(stream, (line) => {
      tail.push(line);
      if (tail.length > tailLines) tail.shift();
      options.onLine?.(line);
    });
  }
  const failure = (what: string) => {
    const shown = options.onLine ? "" : ` Its last lines were:\n${tail.map((line) => `  ${line}`).join("\n")}`;
    return new SetupError(`${what}.${shown}`);
  };
  let ended: string | undefined;
  const exited = group.exited.then((how) => {
    ended = how;
    return how;
  });
  const deadline = performance.now() + readyTimeoutMs;
  try {
    while (options.isReady && !(await options.isReady())) {
      signal.throwIfAborted();
      if (ended !== undefined) throw failure(`${options.name} ended while starting (${ended})`);
      if (performance.now() > deadline) {
        throw failure(`${options.name} was not ready within ${readyTimeoutMs / 1000} s`);
      }
      await delay(50);
    }
    // What answered may be another program; then this one has just failed to take the same port.
    if (ended !== undefined) throw failure(`${options.name} ended while starting (${ended})`);
  } catch (error) {
    await group.end(stopTimeoutMs);
    throw error;
  }
  return { pid: group.identity.pid, exited, close: async () => await group.end(stopTimeoutMs) };
}
