import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { tieGroup } from "./lifeline.ts";
import { identifyProcess, isRunning, type ProcessIdentity, signalProcess } from "./process-identity.ts";

/**
 * A process that leads a group of its own: a terminal's Ctrl-C does not reach it, and it is ended together with all
 * that it started.
 */
export interface ProcessGroup {
  child: ChildProcess;
  identity: ProcessIdentity;
  /** Resolves once the leader has ended, with what ended it ("exit code 1", "SIGKILL"). Never rejects. */
  exited: Promise<string>;
  /** Asks by SIGTERM, insists by SIGKILL after `timeoutMs`, and resolves when the leader is gone. May be called again. */
  end(timeoutMs: number): Promise<void>;
}

export interface ProcessGroupOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  stdio?: StdioOptions;
}

/** @throws the system's error when the program cannot be started. */
export async function startGroup(
  command: string,
  args: string[],
  options: ProcessGroupOptions = {},
): Promise<ProcessGroup> {
  const child = spawn(command, args, { ...options, detached: true });
  const exited = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  await once(child, "spawn");
  const pid = child.pid as number;
  // One that has already ended has no identity left; then nothing will be found running under this one either.
  const identity = (await identifyProcess(pid)) ?? { pid, started: "" };
  const untie = tieGroup(pid);
  let ending: Promise<void> | undefined;
  return {
    child,
    identity,
    exited,
    end: (timeoutMs) => {
      ending ??= endGroup(identity, timeoutMs).then(untie);
      return ending;
    },
  };
}

/** What children of a leader that is gone may take to notice it and finish their last write. */
const orphansMs = 2_000;

/**
 * Ends the group led by this process, whoever started it: SIGTERM to all, SIGKILL to the rest after `timeoutMs`, or soon
 * after the leader has ended before its children. Without effect when nothing of the group is left.
 */
export async function endGroup(leader: ProcessIdentity, timeoutMs: number): Promise<void> {
  const now = await identifyProcess(leader.pid);
  if (now !== undefined && now.started !== leader.started) return;
  const group = -leader.pid;
  if (!signalProcess(group, "SIGTERM")) return;
  let deadline = performance.now() + timeoutMs;
  let led = true;
  // Signal 0 only asks. Zombies that nobody collects answer too, so an empty group cannot be waited for without end.
  while (signalProcess(group, 0) && performance.now() < deadline) {
    if (led && !(await isRunning(leader))) {
      led = false;
      deadline = Math.min(deadline, performance.now() + orphansMs);
    }
    await delay(20);
  }
  if (!signalProcess(group, "SIGKILL")) return;
  while (await isRunning(leader)) await delay(20);
}
