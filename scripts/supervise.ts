import { setTimeout as delay } from "node:timers/promises";
import { afterFailure, type BackoffPolicy, restartPolicy } from "./backoff.ts";

/** Something that runs until it is closed, and that may die before. */
export interface RunningService {
  pid: number;
  /** Resolves when it has ended, with what ended it. Never rejects. */
  exited: Promise<string>;
  /** Ends it and what it left behind. May be called again, and after it has ended by itself. */
  close(): Promise<void>;
}

export interface Service {
  name: string;
  /** Resolves when it is ready to serve; rejects when it cannot be started, having left nothing behind. */
  start(signal: AbortSignal): Promise<RunningService>;
}

export type SupervisionEvent =
  | { type: "starting"; service: string }
  | { type: "ready"; service: string; pid: number; afterMs: number }
  | { type: "died"; service: string; how: string; restartInMs: number }
  /** A restart that failed; another follows. */
  | { type: "failed"; service: string; error: Error }
  | { type: "stopped"; service: string };

export interface SupervisorOptions {
  onEvent?: (event: SupervisionEvent) => void;
  policy?: BackoffPolicy;
  /** 0 to 1. */
  random?: () => number;
}

/**
 * Keeps services running. They are started in the order given, each when the one before is ready, and stopped in the
 * reverse order. One that dies is started again by itself: the others are expected to bear its absence.
 */
export class Supervisor {
  private readonly kept: KeptService[];
  private closing: Promise<void> | undefined;

  constructor(services: Service[], options: SupervisorOptions = {}) {
    this.kept = services.map((service) => new KeptService(service, options));
  }

  /**
   * Resolves when all are ready. A first start that fails is an error of the settings or of the machine, not of the
   * moment: it is thrown as it is, after what had been started is stopped again. Call it once.
   */
  async start(): Promise<void> {
    try {
      for (const service of this.kept) await service.start();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** Gives up a start under way; stops all, each after the one that was started later has ended. May be called again. */
  async close(): Promise<void> {
    this.closing ??= this.closeAll();
    await this.closing;
  }

  private async closeAll(): Promise<void> {
    // At once, so that nothing is started again while others still drain.
    for (const service of this.kept) service.startNoMore();
    for (const service of this.kept.toReversed()) await service.close();
  }
}

/** One service, its restarts, and its end. */
class KeptService {
  private readonly service: Service;
  private readonly onEvent: (event: SupervisionEvent) => void;
  private readonly policy: BackoffPolicy;
  private readonly random: () => number;
  private readonly stopping = new AbortController();
  private running: RunningService | undefined;
  private keeping: Promise<void> | undefined;

  constructor(service: Service, options: SupervisorOptions) {
    this.service = service;
    this.onEvent = options.onEvent ?? (() => undefined);
    this.policy = options.policy ?? restartPolicy;
    this.random = options.random ?? Math.random;
  }

  async start(): Promise<void> {
    const first = await this.launch();
    this.keeping = this.keepRunning(first);
  }

  startNoMore(): void {
    this.stopping.abort();
  }

  async close(): Promise<void> {
    this.startNoMore();
    await this.running?.close();
    await this.keeping;
    // A restart that was past giving up when the first close came.
    await this.running?.close();
    if (this.running) this.onEvent({ type: "stopped", service: this.service.name });
  }

  private async launch(): Promise<RunningService> {
    this.stopping.signal.throwIfAborted();
    this.onEvent({ type: "starting", service: this.service.name });
    const begunAt = performance.now();
    this.running = await this.service.start(this.stopping.signal);
    const { pid } = this.running;
    this.onEvent({ type: "ready", service: this.service.name, pid, afterMs: performance.now() - begunAt });
    return this.running;
  }

  private async keepRunning(first: RunningService): Promise<void> {
    let running: RunningService | undefined = first;
    let failures = 0;
    for (;;) {
      const readyAt = performance.now();
      const how = await running?.exited;
      if (this.stopping.signal.aborted) return;
      const next = afterFailure(failures, performance.now() - readyAt, this.random(), this.policy);
      failures = next.failures;
      if (how !== undefined) {
        this.onEvent({ type: "died", service: this.service.name, how, restartInMs: next.delayMs });
        await running?.close();
      }
      await delay(next.delayMs, undefined, { signal: this.stopping.signal }).catch(() => undefined);
      running = await this.launch().catch((error: Error) => {
        const aborted = this.stopping.signal.aborted;
        if (!aborted) this.onEvent({ type: "failed", service: this.service.name, error });
        return undefined;
      });
    }
  }
}
