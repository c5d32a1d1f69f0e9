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

/** Resolves after `ms`, or as soon as one of the signals aborts. Never rejects: the caller looks at the signals. */
export function pause(ms: number, ...signals: AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    if (signals.some((signal) => signal.aborted)) return resolve();
    const finish = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    for (const signal of signals) signal.addEventListener("abort", finish);
  });
}
