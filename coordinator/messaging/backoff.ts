/** How long to wait before another try. Pure: the random number comes as an argument. */
export interface Backoff {
  firstMs: number;
  maxMs: number;
}

/**
 * Doubles from `firstMs` up to `maxMs`, then takes half to all of it, so that a thousand clients of a restarted broker
 * do not come back in one instant.
 * @param failures so far, from 1. @param random from 0 to 1.
 */
export function backoffMs({ firstMs, maxMs }: Backoff, failures: number, random: number): number {
  const full = Math.min(maxMs, firstMs * 2 ** Math.min(failures - 1, 30));
  return Math.round(full * (0.5 + random / 2));
}
