/**
 * Health that components report in their renewals, written to their records: transitions only, in the background, the
 * latest one of each component. A renewal must not wait for the store, nor be lost because it is away.
 */
import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { Logger } from "pino";
import { isMusterError } from "../../config-db/errors.ts";
import type { Health } from "../../config-db/generated/types.ts";
import type { Records } from "./records.ts";

export interface HealthReportsOptions {
  records: Records;
  site: string;
  leadership: { readonly standing: { role: string }; readonly epoch: number };
  logger: Logger;
  wallClock(): Date;
}

interface Report {
  incarnation: number;
  health: Health;
}

const retryMs = 1_000;

export class HealthReports {
  readonly #options: HealthReportsOptions;
  /** By component: bounded by the number of components. */
  readonly #waiting = new Map<string, Report>();
  readonly #abort = new AbortController();
  #running: Promise<void> | undefined;

  constructor(options: HealthReportsOptions) {
    this.#options = options;
  }

  /** Takes a report; does nothing when the record says so already. */
  take(id: string, report: Report): void {
    const record = this.#options.records.get(id);
    const waiting = this.#waiting.get(id);
    if (waiting === undefined && isDeepStrictEqual(record?.health, report.health)) return;
    this.#waiting.set(id, report);
    this.#running ??= this.#drain().finally(() => {
      this.#running = undefined;
    });
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  async #drain(): Promise<void> {
    while (this.#waiting.size > 0 && !this.#abort.signal.aborted) {
      // A coordinator that does not lead any more leaves it to the next renewal, which its successor hears.
      if (this.#options.leadership.standing.role !== "leading") return this.#waiting.clear();
      const outcomes = await Promise.allSettled([...this.#waiting].map(([id, report]) => this.#write(id, report)));
      const failed = outcomes.find((outcome) => outcome.status === "rejected");
      if (failed === undefined) continue;
      const { reason } = failed as PromiseRejectedResult;
      if (!isMusterError(reason, "store-unavailable"))
        this.#options.logger.warn({ error: reason }, "health not written");
      await delay(retryMs, undefined, { signal: this.#abort.signal }).catch(() => undefined);
    }
  }

  async #write(id: string, report: Report): Promise<void> {
    const { records, site, leadership, wallClock } = this.#options;
    await records.update(id, (current) => {
      const concerns = current?.state === "up" && current.site === site && current.incarnation === report.incarnation;
      if (!concerns || isDeepStrictEqual(current.health, report.health)) return undefined;
      return { ...current, health: report.health, changedAt: wallClock().toISOString(), epoch: leadership.epoch };
    });
    if (this.#waiting.get(id) === report) this.#waiting.delete(id);
  }
}
