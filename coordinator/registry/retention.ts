/** When a component that is up no more is removed: pure, and careful with a wall clock that jumps. */
import type { ComponentDocument } from "../../config-db/generated/types.ts";

export interface Retention {
  goneMs: number;
  expiredMs: number;
}

const hourMs = 3_600_000;

/** Who left in order can be missed for a day; who fell silent may be a machine that is repaired within the week. */
export const defaultRetention: Retention = { goneMs: 24 * hourMs, expiredMs: 7 * 24 * hourMs };

/** The components of `site` whose retention time is over. */
export function overdueForRemoval(
  records: Iterable<ComponentDocument>,
  site: string,
  retention: Retention,
  now: Date,
): ComponentDocument[] {
  const overdue: ComponentDocument[] = [];
  for (const record of records) {
    if (record.site !== site || record.state === "up") continue;
    const keptMs = record.state === "gone" ? retention.goneMs : retention.expiredMs;
    if (now.getTime() - Date.parse(record.changedAt) > keptMs) overdue.push(record);
  }
  return overdue;
}

/** More than time servers step a clock by in daily life. */
const jumpMs = 60_000;
const steadyAfterMs = hourMs;

/**
 * Holds removals back when the wall clock and the monotonic one disagree: a clock that is set a year ahead would end the
 * retention of everything at once, and what queues hold is lost with it.
 */
export class WallClockWatch {
  #seen: { monotonicMs: number; wallMs: number } | undefined;
  #jumpedMs = Number.NEGATIVE_INFINITY;

  isSteady(monotonicMs: number, wallMs: number): boolean {
    const seen = this.#seen ?? { monotonicMs, wallMs };
    this.#seen = { monotonicMs, wallMs };
    const driftMs = wallMs - seen.wallMs - (monotonicMs - seen.monotonicMs);
    if (Math.abs(driftMs) > jumpMs) this.#jumpedMs = monotonicMs;
    return monotonicMs - this.#jumpedMs >= steadyAfterMs;
  }
}
