/**
 * Which sites are heard: pure, time as an argument. A site is judged by whether its `beat` advances on OUR clock; clocks
 * of two machines are never compared. Who is cut off sees other sites fall silent, not their components dead.
 */

import { limits } from "../../config-db/limits.ts";

/** Three: a lost round of replication and a change of leader there are no silence. */
export const missedBeatsMax = 3;
/** Replication takes its time on top: its checkpoint interval, and some seconds after a restart. */
const slackMs = 5_000;

interface Heard {
  /** Anything but the same beat of the same epoch is an advance, a lower one too: a site that was set up anew counts from 0. */
  mark: string;
  beatEveryMs: number;
  atMs: number;
}

export class Beats {
  readonly #sites = new Map<string, Heard>();

  /** Takes note of a site's record. One whose interval is none says nothing: its site's leader puts it right. */
  observe(site: string, record: { beat: number; epoch: number; beatEveryMs: number }, nowMs: number): void {
    const { min, max } = limits.beatEveryMs;
    if (!(record.beatEveryMs >= min && record.beatEveryMs <= max)) return;
    const mark = `${record.epoch}/${record.beat}`;
    const known = this.#sites.get(site);
    if (known?.mark === mark) return;
    this.#sites.set(site, { mark, beatEveryMs: record.beatEveryMs, atMs: nowMs });
  }

  forget(site: string): void {
    this.#sites.delete(site);
  }

  /** Milliseconds since the site's beat last advanced here, or undefined when it never did. */
  ageMs(site: string, nowMs: number): number | undefined {
    const heard = this.#sites.get(site);
    return heard && Math.max(0, nowMs - heard.atMs);
  }

  hears(site: string, nowMs: number): boolean {
    const heard = this.#sites.get(site);
    return heard !== undefined && nowMs - heard.atMs <= missedBeatsMax * heard.beatEveryMs + slackMs;
  }

  sites(): IterableIterator<string> {
    return this.#sites.keys();
  }
}
