/**
 * Time as far as the judge was there to see it. Leases run on this, not on the clock: a process that did not run could
 * not read the renewals that came in, so what passed meanwhile counts against nobody.
 *
 * - Forward jump, suspended machine, stopped process, blocked event loop: one observation comes more than
 *   `stallAfterMs` after the last. None of that gap is judged.
 * - After it the renewals that piled up (in sockets, at the broker) have to be worked off, and new ones arrive
 *   meanwhile. So judged time stands still for as long again, at most `settleMaxMs`.
 * - Backward jump: nothing is judged, and since it may hide an absence of any length, the longest settling follows.
 *
 * Judged time therefore never runs faster than the clock and never back: nobody expires early by it. It costs the dead
 * at most twice the time that the judge was away. It is O(1): no lease is touched.
 */
export interface JudgedTimeOptions {
  /** Two observations further apart than this are a stall. Well over the interval between them, garbage collection included. */
  stallAfterMs: number;
  /** A backlog that takes longer than this to work off has been cut by the broker's and the kernel's own limits. */
  settleMaxMs: number;
}

export class JudgedTime {
  readonly #options: JudgedTimeOptions;
  #judgedMs = 0;
  #seenMs: number | undefined;
  #settleMs = 0;

  constructor(options: JudgedTimeOptions) {
    this.#options = options;
  }

  /** What has been judged so far, in milliseconds since the first observation. */
  get judgedMs(): number {
    return this.#judgedMs;
  }

  /** True while the backlog of a stall is being worked off: a renewal that came in time may still be unread. */
  get settling(): boolean {
    return this.#settleMs > 0;
  }

  /** Stands still for `forMs` (at most the limit) from the last observation on: a backlog is known to be there. */
  settle(forMs: number): void {
    this.#settleMs = Math.min(this.#options.settleMaxMs, Math.max(this.#settleMs, forMs));
  }

  /**
   * Takes note of the clock.
   * @returns the stall that this observation ends, in milliseconds; 0 when there was none.
   */
  observe(nowMs: number): number {
    const gapMs = nowMs - (this.#seenMs ?? nowMs);
    this.#seenMs = nowMs;
    if (gapMs < 0) {
      this.settle(this.#options.settleMaxMs);
      return 0;
    }
    if (gapMs > this.#options.stallAfterMs) {
      this.settle(gapMs);
      return gapMs;
    }
    const settledMs = Math.min(this.#settleMs, gapMs);
    this.#settleMs -= settledMs;
    this.#judgedMs += gapMs - settledMs;
    return 0;
  }

  /**
   * The judged time of something that happens at `nowMs`, between two observations. Never less than what the next
   * observation will have judged up to here, so that a lease counted from it is never short.
   */
  at(nowMs: number): number {
    if (this.#seenMs === undefined) return this.#judgedMs;
    return this.#judgedMs + Math.min(this.#options.stallAfterMs, Math.max(0, nowMs - this.#seenMs));
  }
}
