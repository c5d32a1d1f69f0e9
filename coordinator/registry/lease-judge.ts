/**
 * Who holds a lease and whose has run out. No clock and no I/O: every call is told the time, in milliseconds of one
 * monotonic clock. The runner is `judgement.ts`.
 *
 * Invariants (test/unit/registry-lease-judge.test.ts holds them over random schedules)
 * 1. A lease is due only when its full `ttlMs` of judged time has passed since the receipt of its last renewal, and
 *    never right after a stall. Judged time leaves out what the judge did not see (judged-time.ts): it is never early.
 * 2. A lease that is not renewed is due once its `ttlMs` of judged time has passed, and stays due until it is renewed,
 *    granted again or dropped. Being due decides nothing: a renewal that comes before the decision still counts.
 * 3. A renewal costs a look-up and an addition, however many leases there are: the queue holds a lease at the time it
 *    was queued for, and only when that time comes is it looked at again. That is once per TTL, not per renewal.
 *
 * @see Gray & Cheriton 1989, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency"
 */
import TinyQueue from "tinyqueue";
import { JudgedTime, type JudgedTimeOptions } from "../judged-time.ts";

interface Lease {
  readonly id: string;
  ttlMs: number;
  /** In judged time. */
  deadlineMs: number;
  /** The judged time at which the queue will show it; at or before the deadline. */
  queuedForMs: number;
}

interface Place {
  atMs: number;
  lease: Lease;
}

/** Places that nobody waits for any more (dropped or shortened leases) are cleared out beyond this many. */
const stalePlacesMax = 1_024;

export class LeaseJudge {
  readonly #time: JudgedTime;
  readonly #leases = new Map<string, Lease>();
  readonly #due = new Set<Lease>();
  #queue = new TinyQueue<Place>([], (a, b) => a.atMs - b.atMs);

  constructor(options: JudgedTimeOptions) {
    this.#time = new JudgedTime(options);
  }

  get size(): number {
    return this.#leases.size;
  }

  /** Places in the queue: in proportion to `size`. */
  get queued(): number {
    return this.#queue.length;
  }

  holds(id: string): boolean {
    return this.#leases.has(id);
  }

  /** Gives `id` a lease of `ttlMs` from now on, in place of any that it had. */
  grant(id: string, ttlMs: number, nowMs: number): void {
    const deadlineMs = this.#time.at(nowMs) + ttlMs;
    const held = this.#leases.get(id);
    if (held === undefined) {
      const lease = { id, ttlMs, deadlineMs, queuedForMs: deadlineMs };
      this.#leases.set(id, lease);
      this.#enqueue(lease);
      return;
    }
    held.ttlMs = ttlMs;
    held.deadlineMs = deadlineMs;
    if (deadlineMs < held.queuedForMs) this.#enqueue(held);
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
    this.#queue = new TinyQueue<Place>([], (a, b) => a.atMs - b.atMs);
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
    const judgedMs = this.#time.judgedMs;
    for (let place = this.#queue.peek(); place !== undefined && place.atMs <= judgedMs; place = this.#queue.peek()) {
      this.#queue.pop();
      if (isCurrent(place, this.#leases)) this.#due.add(place.lease);
    }
    const ids: string[] = [];
    for (const lease of this.#due) {
      if (ids.length >= max) break;
      if (lease.deadlineMs <= judgedMs) {
        ids.push(lease.id);
      } else {
        this.#due.delete(lease);
        this.#enqueue(lease);
      }
    }
    return ids;
  }

  #enqueue(lease: Lease): void {
    lease.queuedForMs = lease.deadlineMs;
    this.#queue.push({ atMs: lease.deadlineMs, lease });
    if (this.#queue.length > 2 * this.#leases.size + stalePlacesMax) {
      const places = this.#queue.data.filter((place) => isCurrent(place, this.#leases));
      this.#queue = new TinyQueue(places, (a, b) => a.atMs - b.atMs);
    }
  }
}

function isCurrent({ atMs, lease }: Place, leases: Map<string, Lease>): boolean {
  return leases.get(lease.id) === lease && lease.queuedForMs === atMs;
}
