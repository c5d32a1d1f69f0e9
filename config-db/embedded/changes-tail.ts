/**
 * The one reader behind all feeds that wait for a database's next change. Whoever writes pokes it; it reads what is new
 * once, however many wait, and hands the same page to all of them. While nobody waits it does nothing.
 */
import { type Change, readChanges } from "./changes-page.ts";
import type { Opened } from "./storage.ts";

/** Called with changes newer than the waiter's `since`, or with nothing when the waiter has to look for itself. */
export type Waiter = (changes: Change[]) => void;

type Use = <T>(work: (pouch: Opened) => Promise<T>) => Promise<T>;

export class ChangesTail {
  readonly #use: Use;
  readonly #waiters = new Map<Waiter, number>();
  /** Everything up to here was read and handed out to who waited then; never goes back. */
  #seq = 0;
  /** There may be more than that. */
  #isDirty = true;
  #isReading = false;
  /** Where the reading that is under way began. */
  #readFrom = 0;
  #isClosed = false;

  constructor(use: Use) {
    this.#use = use;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Something was written. It is read once whoever wrote it has been answered. */
  poke(): void {
    this.#isDirty = true;
    setImmediate(() => this.#readForWaiters());
  }

  /** True when there is surely nothing after `since`: who long-polls for the next change need not read to know. */
  hasNothingAfter(since: number): boolean {
    return !this.#isDirty && !this.#isReading && since === this.#seq;
  }

  /**
   * Registers a waiter that has seen everything up to `since`; it is called once. False, and it is not registered, when
   * something newer went out meanwhile or the database is closed: read again.
   */
  wait(since: number, waiter: Waiter): boolean {
    if (this.#isClosed || since < this.#seq) return false;
    this.#waiters.set(waiter, since);
    // What is being read begins after what this one waits for.
    if (this.#isReading && since < this.#readFrom) this.#isDirty = true;
    // What was written while nobody waited was not read.
    this.#readForWaiters();
    return true;
  }

  cancel(waiter: Waiter): void {
    this.#waiters.delete(waiter);
  }

  close(): void {
    this.#isClosed = true;
    this.#wakeAll();
  }

  #readForWaiters(): void {
    if (!this.#isDirty || this.#isReading || this.#waiters.size === 0) return;
    this.#isReading = true;
    void this.#read();
  }

  async #read(): Promise<void> {
    try {
      while (this.#isDirty && this.#waiters.size > 0) {
        this.#isDirty = false;
        // Not from `#seq`, nor from where the last one waits: each may have read further by itself than the others.
        const since = Math.min(...this.#waiters.values());
        this.#readFrom = since;
        const page = await this.#use((pouch) => readChanges(pouch, { since }));
        if (page.isFull) this.#isDirty = true;
        this.#seq = Math.max(this.#seq, page.lastSeq);
        this.#hand(page.changes);
      }
    } catch {
      // Each feed reads for itself then, meets the same fault and reports it.
      this.#isDirty = true;
      this.#wakeAll();
    } finally {
      this.#isReading = false;
    }
  }

  #hand(changes: Change[]): void {
    for (const [waiter, since] of [...this.#waiters]) {
      const fresh = changes.filter((change) => change.seq > since);
      if (fresh.length === 0) continue;
      this.#waiters.delete(waiter);
      waiter(fresh);
    }
  }

  #wakeAll(): void {
    const woken = [...this.#waiters.keys()];
    this.#waiters.clear();
    for (const waiter of woken) waiter([]);
  }
}
