/**
 * Who holds a lease and whose has run out. No clock and no I/O: every call is told the time, in milliseconds of one
 * monotonic clock. The runner is `judgement.ts`.
 *
 * Invariants (test/unit/registry-lease-judge.test.ts holds them over random schedules)
 * 1. A lease is due only when its full `ttlMs` of judged time has passed since the receipt of its last renewal, and
 *    never right after a stall. Judged time leaves out what the judge did not see (judged-time.ts): it is never early.
 * 2. A lease that is not renewed is due once its `ttlMs` of judged time has passed, and stays due until it is renewed,
 *    granted again or dropped. Being due decides nothing: a renewal that comes before the decision still counts.
 * 3. A renewal costs a look-up and an addition, however many leases there are. The calendar holds a lease in the slot of
 *    the deadline that it had when it was put there; only when that comes is it looked at again and, renewed meanwhile,
 *    put into a later slot. That is once per TTL, not per renewal, and costs as little.
 *
 * @see Gray & Cheriton 1989, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency"
 */
import { JudgedTime, type JudgedTimeOptions } from "../judged-time.ts";

interface Lease {
  readonly id: string;
  ttlMs: number;
  /** In judged time. */
  deadlineMs: number;
  /** Where the calendar holds it: at or before its deadline. */
  slot: number;
}

/** A lease is found due at most this much later than it is. */
const slotMs = 10;
/** Leases in slots where nobody looks for them any more (dropped, shortened) are cleared out beyond this many. */
const staleMax = 1_024;

export class LeaseJudge {
  readonly #time: JudgedTime;
  readonly #leases = new Map<string, Lease>();
  readonly #due = new Set<Lease>();
  readonly #calendar = new Map<number, Lease[]>();
  /** The last slot whose time has come. */
  #slot = 0;
  #entered = 0;

  constructor(options: JudgedTimeOptions) {
    this.#time = new JudgedTime(options);
  }

  get size(): number {
    return this.#leases.size;
  }

  /** Entries in the calendar: in proportion to `size`. */
  get entered(): number {
    return this.#entered;
  }

  holds(id: string): boolean {
    return this.#leases.has(id);
  }

  /** Gives `id` a lease of `ttlMs` from now on, in place of any that it had. */
  grant(id: string, ttlMs: number, nowMs: number): void {
    const deadlineMs = this.#time.at(nowMs) + ttlMs;
    const held = this.#leases.get(id);
    if (held === undefined) {
      const lease = { id, ttlMs, deadlineMs, slot: 0 };
      this.#leases.set(id, lease);
      this.#enter(lease);
      return;
    }
    held.ttlMs = ttlMs;
    held.deadlineMs = deadlineMs;
    if (slotOf(deadlineMs) < held.slot) this.#enter(held);
  }

  /** @returns the milliseconds that the lease now has, or undefined when `id` holds none. */
  renew(id: string, nowMs: number): number | undefined {
    const lease = this.#leases.get(id);
    if (lease === undefined) return undefined;
    lease.deadlineMs = this.#time.at(nowMs) + lease.ttlMs;
    return lease.ttlMs;
  }

  /** @returns the milliseconds left, 0 when due, or undefined when `id` holds no lease. */
  remainingMs(id: string, nowMs: number): number | undefined {
    const lease = this.#leases.get(id);
    return lease && Math.max(0, Math.round(lease.deadlineMs - this.#time.at(nowMs)));
  }

  /** Ends the lease of `id`: it is up no more, or its expiry is decided. */
  drop(id: string): void {
    const lease = this.#leases.get(id);
    if (lease === undefined) return;
    this.#leases.delete(id);
    this.#due.delete(lease);
  }

  clear(): void {
    this.#leases.clear();
    this.#due.clear();
    this.#calendar.clear();
    this.#entered = 0;
  }

  /** Judges nothing for `forMs`: renewals are known to wait that are not read yet. */
  settle(forMs: number): void {
    this.#time.settle(forMs);
  }

  /** Lets judged time go on to `nowMs`. @returns the stall that this ends, in milliseconds, or 0. */
  observe(nowMs: number): number {
    return this.#time.observe(nowMs);
  }

  /**
   * The ids whose lease has run out, at most `max`, in no order. Asking changes nothing about them. None while the
   * backlog of a stall is worked off.
   */
  due(max = Number.POSITIVE_INFINITY): string[] {
    if (this.#time.settling) return [];
    const { judgedMs } = this.#time;
    for (const now = Math.floor(judgedMs / slotMs); this.#slot < now; ) {
      this.#slot += 1;
      this.#open(this.#slot);
    }
    const ids: string[] = [];
    for (const lease of this.#due) {
      if (ids.length >= max) break;
      if (lease.deadlineMs <= judgedMs) {
        ids.push(lease.id);
      } else {
        this.#due.delete(lease);
        this.#enter(lease);
      }
    }
    return ids;
  }

  /** The time of a slot has come: who is in it is due, or was renewed and goes to a later one. */
  #open(slot: number): void {
    const leases = this.#calendar.get(slot);
    if (leases === undefined) return;
    this.#calendar.delete(slot);
    this.#entered -= leases.length;
    for (const lease of leases) {
      if (this.#leases.get(lease.id) !== lease || lease.slot !== slot) continue;
      if (slotOf(lease.deadlineMs) <= slot) this.#due.add(lease);
      else this.#enter(lease);
    }
  }

  #enter(lease: Lease): void {
    // What is due already is found at the next look.
    lease.slot = Math.max(slotOf(lease.deadlineMs), this.#slot + 1);
    const leases = this.#calendar.get(lease.slot);
    if (leases === undefined) this.#calendar.set(lease.slot, [lease]);
    else leases.push(lease);
    this.#entered += 1;
    if (this.#entered > 2 * this.#leases.size + staleMax) this.#clearStale();
  }

  #clearStale(): void {
    this.#calendar.clear();
    this.#entered = 0;
    for (const lease of this.#leases.values()) if (!this.#due.has(lease)) this.#enter(lease);
  }
}

function slotOf(deadlineMs: number): number {
  return Math.ceil(deadlineMs / slotMs);
}
