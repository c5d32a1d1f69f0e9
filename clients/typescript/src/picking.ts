/** Chooses one component among those that offer the same: pure, the state and the time being arguments. */
import type { ComponentRecord } from "./directory.ts";

export type PickStrategy = "round-robin" | "least-outstanding";

/** What this process knows of a component from having used it. */
export interface Experience {
  /** Picks of it that are not yet released. */
  outstanding: number;
  /** Skipped until then after a reported failure, on the monotonic clock. */
  skipUntilMs: number;
  failuresInARow: number;
}

export const inexperienced: Readonly<Experience> = { outstanding: 0, skipUntilMs: 0, failuresInARow: 0 };

/** The first failure skips a component for a second, each further one twice as long, up to half a minute. */
const skip = { firstMs: 1_000, maxMs: 30_000 };

export function afterFailure(experience: Readonly<Experience>, nowMs: number): Experience {
  const failuresInARow = experience.failuresInARow + 1;
  const skipMs = Math.min(skip.maxMs, skip.firstMs * 2 ** Math.min(failuresInARow - 1, 10));
  return { outstanding: Math.max(0, experience.outstanding - 1), skipUntilMs: nowMs + skipMs, failuresInARow };
}

export function afterSuccess(experience: Readonly<Experience>): Experience {
  return { outstanding: Math.max(0, experience.outstanding - 1), skipUntilMs: 0, failuresInARow: 0 };
}

/**
 * Picks among the best class that has anyone: passing and not skipped, then warning and not skipped, then whoever failed
 * longest ago. A component that says it is failing is never picked. `turn` counts the picks made so far.
 */
export function choose(
  candidates: readonly ComponentRecord[],
  experienceOf: (id: string) => Readonly<Experience>,
  { strategy, turn, nowMs }: { strategy: PickStrategy; turn: number; nowMs: number },
): ComponentRecord | undefined {
  const usable = candidates
    .filter((candidate) => candidate.health?.status !== "failing")
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  const rested = usable.filter(({ id }) => experienceOf(id).skipUntilMs <= nowMs);
  const passing = rested.filter(({ health }) => health?.status !== "warning");
  const best = passing.length > 0 ? passing : rested;
  if (best.length === 0) {
    return usable.reduce<ComponentRecord | undefined>(
      (found, next) =>
        found === undefined || experienceOf(next.id).skipUntilMs < experienceOf(found.id).skipUntilMs ? next : found,
      undefined,
    );
  }
  const start = turn % best.length;
  const inTurn = [...best.slice(start), ...best.slice(0, start)];
  if (strategy === "round-robin") return inTurn[0];
  return inTurn.reduce((found, next) =>
    experienceOf(next.id).outstanding < experienceOf(found.id).outstanding ? next : found,
  );
}
