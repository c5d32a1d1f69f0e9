/** W3C trace context of the message in hand: whatever a handler sends carries it on. */
import { AsyncLocalStorage } from "node:async_hooks";
import { inspect } from "node:util";
import { MusterError } from "../../../config-db/errors.ts";

const pattern = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;
const current = new AsyncLocalStorage<string>();

export function traceparentInHand(): string | undefined {
  return current.getStore();
}

/** Runs `work` with `traceparent` in hand. Costs nothing where there is none. */
export function withTraceparent<T>(traceparent: string | undefined, work: () => T): T {
  return traceparent === undefined ? work() : current.run(traceparent, work);
}

/** Of a message that arrived: what is none is left out, since anyone may have sent it. */
export function traceparentOf(given: unknown): string | undefined {
  return typeof given === "string" && pattern.test(given) ? given : undefined;
}

/** @throws MusterError `invalid-request`. */
export function checkTraceparent(given: unknown): void {
  if (given === undefined || traceparentOf(given) !== undefined) return;
  throw new MusterError(
    "invalid-request",
    `traceparent must match ${pattern.source}, got ${inspect(given).slice(0, 100)}`,
  );
}
