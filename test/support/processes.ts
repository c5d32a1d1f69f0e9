import { readdir } from "node:fs/promises";
import { resolve } from "node:path";
import { eachLine } from "../../scripts/command.ts";
import { type ProcessGroup, startGroup } from "../../scripts/process-group.ts";
import { identifyProcess, type ProcessIdentity, parentOf } from "../../scripts/process-identity.ts";

export interface SpawnOptions {
  args?: string[];
  /** Added to this process's environment; undefined takes a variable out. */
  env?: Record<string, string | undefined>;
  cwd?: string;
}

/** A process of the product under test. */
export interface SpawnedProcess {
  pid: number;
  /** Every line so far of both outputs. */
  lines: readonly string[];
  /** Resolves with how it ended: "exit code 0", "SIGKILL". */
  exited: Promise<string>;
  /** Resolves with the first line, past or future, that matches; an error with all output when it ends or is late. */
  line(pattern: RegExp, timeoutMs?: number): Promise<string>;
  /** Sends a signal to it and all it started, and for SIGKILL waits until it is gone. */
  kill(signal: "SIGKILL" | "SIGSTOP" | "SIGCONT" | "SIGTERM" | "SIGINT"): Promise<void>;
  /** Ends it by SIGTERM, by SIGKILL after 10 s. May be called again. */
  close(): Promise<void>;
}

const open = new Map<ProcessGroup, string>();

/** Starts a TypeScript entry point of this repository, given as a path from its root, in a process of its own. */
export async function spawnEntry(entry: string, options: SpawnOptions = {}): Promise<SpawnedProcess> {
  const root = resolve(import.meta.dirname, "../..");
  const group = await startGroup(process.execPath, ["--import", "tsx", resolve(root, entry), ...(options.args ?? [])], {
    cwd: options.cwd ?? root,
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  open.set(group, `${entry} (${group.identity.pid})`);
  void group.exited.then(() => open.delete(group));
  return new Spawned(group);
}

/** The process and all that descend from it now, each told apart from later ones with its number. Linux only. */
export async function familyOf(pid: number): Promise<ProcessIdentity[]> {
  const parents = new Map<number, number | undefined>();
  for (const name of await readdir("/proc")) {
    if (/^\d+$/.test(name)) parents.set(Number(name), await parentOf(Number(name)));
  }
  const family = [pid];
  for (const member of family) {
    for (const [child, parent] of parents) if (parent === member) family.push(child);
  }
  return (await Promise.all(family.map(identifyProcess))).filter((identity) => identity !== undefined);
}

/** Kills what tests did not close, and names it. Called once by the root hooks. */
export function killLeftProcesses(): string[] {
  const names = [...open.values()];
  for (const group of open.keys()) void group.end(0);
  return names;
}

class Spawned implements SpawnedProcess {
  readonly lines: string[] = [];
  private readonly group: ProcessGroup;
  private readonly watchers = new Set<() => void>();
  private ended: string | undefined;

  constructor(group: ProcessGroup) {
    this.group = group;
    for (const stream of [group.child.stdout, group.child.stderr]) {
      if (stream) {
        eachLine(stream, (line) => {
          this.lines.push(line);
          this.wake();
        });
      }
    }
    group.child.once("close", () => {
      this.ended = `ended by ${group.child.signalCode ?? `exit code ${group.child.exitCode}`}`;
      this.wake();
    });
  }

  get pid(): number {
    return this.group.identity.pid;
  }

  get exited(): Promise<string> {
    return this.group.exited;
  }

  async line(pattern: RegExp, timeoutMs = 30_000): Promise<string> {
    return await new Promise((resolve, reject) => {
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        this.watchers.delete(look);
        settle();
      };
      const look = () => {
        const found = this.lines.find((line) => pattern.test(line));
        if (found !== undefined) finish(() => resolve(found));
        else if (this.ended !== undefined) finish(() => reject(this.missing(pattern, this.ended ?? "")));
      };
      const late = () => finish(() => reject(this.missing(pattern, `still running after ${timeoutMs} ms`)));
      const timer = setTimeout(late, timeoutMs);
      this.watchers.add(look);
      look();
    });
  }

  async kill(signal: "SIGKILL" | "SIGSTOP" | "SIGCONT" | "SIGTERM" | "SIGINT"): Promise<void> {
    process.kill(-this.pid, signal);
    if (signal === "SIGKILL") await this.exited;
  }

  async close(): Promise<void> {
    await this.group.end(10_000);
  }

  private wake(): void {
    for (const look of [...this.watchers]) look();
  }

  private missing(pattern: RegExp, state: string): Error {
    return new Error(
      `no line matches ${pattern} of process ${this.pid}, ${state}. Its output:\n${this.lines.join("\n")}`,
    );
  }
}
