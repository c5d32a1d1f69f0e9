/** What a collector measures: this machine's CPU and memory, and how late its own event loop runs. */
import { cpus, freemem, totalmem } from "node:os";
import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";

export interface Figures {
  /** Of all CPUs together, since the last measurement. */
  cpuPercent: number;
  memoryUsedMiB: number;
  memoryTotalMiB: number;
  /** The 99th percentile since the last measurement. */
  eventLoopDelayP99Ms: number;
}

interface CpuTimes {
  busyMs: number;
  totalMs: number;
}

const mebi = 1024 * 1024;

export class Meter {
  readonly #delays: IntervalHistogram = monitorEventLoopDelay({ resolution: 10 });
  #before: CpuTimes = cpuTimes();

  start(): void {
    this.#delays.enable();
  }

  read(): Figures {
    const now = cpuTimes();
    const totalMs = now.totalMs - this.#before.totalMs;
    const busyMs = now.busyMs - this.#before.busyMs;
    this.#before = now;
    const delayP99Ms = this.#delays.percentile(99) / 1e6;
    this.#delays.reset();
    return {
      cpuPercent: totalMs === 0 ? 0 : Math.round((1000 * busyMs) / totalMs) / 10,
      memoryUsedMiB: Math.round((totalmem() - freemem()) / mebi),
      memoryTotalMiB: Math.round(totalmem() / mebi),
      eventLoopDelayP99Ms: Number.isFinite(delayP99Ms) ? Math.round(delayP99Ms * 10) / 10 : 0,
    };
  }

  stop(): void {
    this.#delays.disable();
  }
}

function cpuTimes(): CpuTimes {
  let busyMs = 0;
  let totalMs = 0;
  for (const { times } of cpus()) {
    const { user, nice, sys, idle, irq } = times;
    busyMs += user + nice + sys + irq;
    totalMs += user + nice + sys + irq + idle;
  }
  return { busyMs, totalMs };
}
