/** How long to wait before what failed is tried again. */
export interface BackoffPolicy {
  firstMs: number;
  maxMs: number;
  /** What ran for so long was well: the next failure starts from `firstMs` again. */
  healthyMs: number;
}

/** 5 s at most: whatever dies has to be back within 30 s, its own start included. */
export const restartPolicy: BackoffPolicy = { firstMs: 250, maxMs: 5_000, healthyMs: 30_000 };

export interface Backoff {
  /** Failures in a row. */
  failures: number;
  delayMs: number;
}

/**
 * What follows a failure after `ranMs` of running. The delay doubles with each failure in a row, and half of it is left
 * to `random` (0 to 1): what fell together does not come back together.
 */
export function afterFailure(
  failuresBefore: number,
  ranMs: number,
  random: number,
  policy: BackoffPolicy = restartPolicy,
): Backoff {
  const before = ranMs >= policy.healthyMs ? 0 : failuresBefore;
  // 2^30 exceeds every limit already, and Infinity * 0 must not come about.
  const fullMs = Math.min(policy.maxMs, policy.firstMs * 2 ** Math.min(before, 30));
  return { failures: before + 1, delayMs: Math.round(fullMs * (0.5 + random / 2)) };
}
