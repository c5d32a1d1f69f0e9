/** W3C trace context of the message in hand: whatever a handler sends carries it on. */
import { AsyncLocalStorage } from "node:async_hooks";

const current = new AsyncLocalStorage<string>();

export function traceparentInHand(): string | undefined {
  return current.getStore();
}

/** Runs `work` with `traceparent` in hand. Costs nothing where there is none. */
export function withTraceparent<T>(traceparent: string | undefined, work: () => T): T {
  return traceparent === undefined ? work() : current.run(traceparent, work);
}
