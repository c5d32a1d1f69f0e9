/**
 * The last part of a removal: the queues of a component whose record is a tombstone. The tombstone says `removing` until
 * they are gone; whoever wrote it takes them away at once. What a coordinator that was killed, or had no broker, has left of
 * that the leader of the component's home site finds in the tombstones that it knows (docs/adr/0204).
 */
import type { Logger } from "pino";
import { isMusterError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { Records } from "./records.ts";

export interface RemovalsOptions {
  records: Records;
  site: string;
  logger: Logger;
  /** Takes a component's queues away. May be called again for the same one. @throws MusterError `broker-unavailable` */
  remove?(component: { id: string; type: string }): Promise<void>;
}

/** Each takes some 200 ms of the broker's disk, which the living wait for too. */
const atOnce = 10;

export class Removals {
  readonly #options: RemovalsOptions;
  #resuming: Promise<void> | undefined;
  #closed = false;

  constructor(options: RemovalsOptions) {
    this.#options = options;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#resuming;
  }

  /**
   * Takes the queues of a component away whose tombstone stands, unless it is registered again by now. What fails may be
   * called again. @throws MusterError `broker-unavailable`, `store-unavailable`
   */
  async finish({ id, type, site, incarnation }: ComponentDocument): Promise<void> {
    const { records, remove } = this.#options;
    if ((await records.refresh(id)) !== undefined) return;
    await remove?.({ id, type });
    // Those at another site are for its leader to find.
    if (site !== this.#options.site) return;
    // It may have been registered and removed again meanwhile: those queues are of another removal.
    await records.endRemoval(id, incarnation);
  }

  /** Finishes, in the background, all removals of this site that are under way: for its leader, from time to time. */
  resume(): void {
    this.#resuming ??= this.#resume().finally(() => {
      this.#resuming = undefined;
    });
  }

  async #resume(): Promise<void> {
    const { records, site } = this.#options;
    const left = records.allRemoving().filter((tombstone) => tombstone.site === site);
    while (left.length > 0 && !this.#closed) {
      await Promise.all(left.splice(0, atOnce).map((tombstone) => this.#finishOrTell(tombstone)));
    }
  }

  async #finishOrTell(tombstone: ComponentDocument): Promise<void> {
    const { logger } = this.#options;
    const { id: component, incarnation } = tombstone;
    try {
      await this.finish(tombstone);
      logger.info({ component, incarnation }, "a removal was finished");
    } catch (error) {
      const waits = isMusterError(error, "broker-unavailable") || isMusterError(error, "store-unavailable");
      logger[waits ? "debug" : "error"]({ component, incarnation, error }, "a removal waits");
    }
  }
}
