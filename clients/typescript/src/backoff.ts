/** Delays between tries, and waits that can be called off. */

export interface BackoffLimits {
  firstMs: number;
  maxMs: number;
}

/**
 * The delay before try number `attempt` (0 is the first retry): doubled each time up to `maxMs`, and of that a random
 * part between a half and all, so that a thousand clients of a restarted server do not come back in one instant.
 */
export function backoffMs(attempt: number, { firstMs, maxMs }: BackoffLimits, random = Math.random()): number {
  const grown = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return grown / 2 + (grown / 2) * random;
}

/** Resolves after `ms`, or at once when `signal` aborts. Never rejects: the caller looks at the signal. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve();
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal?.addEventListener("abort", finish);
  });
}
