import { setTimeout as delay } from "node:timers/promises";

export interface EventuallyOptions {
  timeoutMs?: number;
  everyMs?: number;
}

/**
 * Repeats `check` until it does not throw, and resolves with what it returned. Instead of a sleep: it goes on the moment
 * the fact holds, and when the fact never does, the last assertion error says how far it got.
 */
export async function eventually<T>(check: () => T | Promise<T>, options: EventuallyOptions = {}): Promise<T> {
  const { timeoutMs = 10_000, everyMs = 25 } = options;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() + everyMs > deadline) throw error;
    }
    await delay(everyMs);
  }
}
