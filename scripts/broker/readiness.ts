import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { cpuTimeOf } from "../process-identity.ts";

/** A node that is starting. */
export interface StartingNode {
  answers(): Promise<boolean>;
  /** Resolves with what ended it. */
  exited: Promise<string>;
  work(): Promise<Work>;
}

/** What a node has done since it was started: more than before tells that it gets on. */
export interface Work {
  /** Undefined where the system does not tell. */
  cpuMs: number | undefined;
  loggedBytes: number;
}

export interface Patience {
  askEveryMs: number;
  lookEveryMs: number;
  /** A node that is seen to do nothing for so long will not serve any more. */
  idleMaxMs: number;
  /** The same where its CPU time is not known: it logs little while it recovers queues. */
  unseenMaxMs: number;
}

export const patience: Patience = {
  askEveryMs: 50,
  lookEveryMs: 10_000,
  idleMaxMs: 120_000,
  unseenMaxMs: 30 * 60_000,
};

/** Of a core. Its timers alone take a node 1 to 3 %; one that recovers gets more even where ten others want the core. */
const workingShare = 0.1;

/**
 * Waits until a node answers, however long it takes while it gets on: 3,400 quorum queues keep a node busy for minutes
 * when it was killed, and one that is killed again for it begins anew.
 * @returns what it failed by, or undefined when it answers.
 */
export async function untilServing(
  node: StartingNode,
  progress: (line: string) => void,
  signal: AbortSignal | undefined,
  { askEveryMs, lookEveryMs, idleMaxMs, unseenMaxMs }: Patience = patience,
): Promise<string | undefined> {
  let ended: string | undefined;
  void node.exited.then((how) => {
    ended = how;
  });
  const startedMs = performance.now();
  let seen = { atMs: startedMs, work: await node.work() };
  // Counted by looks and not by the clock: time in which this process was stopped itself is nobody's idleness.
  let idleLooks = 0;
  while (!(await node.answers())) {
    signal?.throwIfAborted();
    if (ended !== undefined) return `ended while starting (${ended})`;
    const nowMs = performance.now();
    if (nowMs - seen.atMs >= lookEveryMs) {
      const work = await node.work();
      idleLooks = hasWorked(seen.work, work, nowMs - seen.atMs) ? 0 : idleLooks + 1;
      seen = { atMs: nowMs, work };
      const idleMs = idleLooks * lookEveryMs;
      if (idleMs >= (work.cpuMs === undefined ? unseenMaxMs : idleMaxMs)) {
        return `did not answer, and did nothing for ${idleMs / 1000} s`;
      }
      const seconds = Math.round((nowMs - startedMs) / 1000);
      const what = idleLooks > 0 ? "not at work" : "at work; where there are thousands of queues it takes minutes";
      progress(`no answer after ${seconds} s, ${what}`);
    }
    await delay(askEveryMs);
  }
  return undefined;
}

function hasWorked(before: Work, now: Work, elapsedMs: number): boolean {
  if (now.loggedBytes !== before.loggedBytes) return true;
  return now.cpuMs !== undefined && now.cpuMs - (before.cpuMs ?? 0) >= workingShare * elapsedMs;
}

/** What the process `pid`, that logs into `logDirectory`, has done. */
export async function workOf(pid: number, logDirectory: string): Promise<Work> {
  const names = await readdir(logDirectory);
  const sizes = names.map((name) => stat(join(logDirectory, name)).then(({ size }) => size));
  // A log may be rotated away meanwhile.
  const logged = await Promise.all(sizes.map((size) => size.catch(() => 0)));
  return { cpuMs: await cpuTimeOf(pid), loggedBytes: logged.reduce((sum, size) => sum + size, 0) };
}
