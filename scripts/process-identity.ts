import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";

/** A process, told apart from a later one that got the same pid. */
export interface ProcessIdentity {
  pid: number;
  /** When it started, in the system's own words: compared, never read. */
  started: string;
}

/** The identity of the live process `pid`, or undefined when there is none (a zombie counts as none). */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | undefined> {
  if (process.platform === "linux") {
    const fields = await statOf(pid);
    const [state, started] = [fields?.[0], fields?.[19]];
    return state === "Z" || started === undefined ? undefined : { pid, started };
  }
  try {
    const { stdout } = await promisify(execFile)("ps", ["-o", "lstart=", "-p", String(pid)]);
    return stdout.trim() === "" ? undefined : { pid, started: stdout.trim() };
  } catch {
    return undefined;
  }
}

/** The pid of the parent of `pid`; known on Linux only. */
export async function parentOf(pid: number): Promise<number | undefined> {
  const parent = Number((await statOf(pid))?.[1]);
  return Number.isInteger(parent) ? parent : undefined;
}

/** USER_HZ: what Linux counts CPU time in for readers of /proc, on every machine. */
const ticksPerSecond = 100;

/** The CPU time that `pid` has used, all its threads, in milliseconds; known on Linux only. */
export async function cpuTimeOf(pid: number): Promise<number | undefined> {
  const fields = await statOf(pid);
  const ticks = Number(fields?.[11]) + Number(fields?.[12]);
  return Number.isFinite(ticks) ? (ticks * 1000) / ticksPerSecond : undefined;
}

/** The fields of /proc/<pid>/stat from the third on, the state. The second may hold anything: they count from its end. */
async function statOf(pid: number): Promise<string[] | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
}

export async function isRunning(identity: ProcessIdentity | undefined): Promise<boolean> {
  if (identity === undefined) return false;
  return (await identifyProcess(identity.pid))?.started === identity.started;
}

/** Signals a process, or with a negative pid its group; 0 only asks. False when nothing of it is left. */
export function signalProcess(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}
