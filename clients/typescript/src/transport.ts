/** What can carry outgoing messages: the seam between the outbox and AMQP or HTTP. */
import type { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import type { Outgoing } from "./message.ts";

export interface Reply {
  from: string | undefined;
  body: unknown;
}

/**
 * How sending ended: taken over; for a request by HTTP with its reply; or an error. `isLost` says that nobody knows, or
 * that nothing was tried: the same message, with its id, is to be sent again.
 */
export type Sent = { reply?: Reply } | { error: MusterError; isLost: boolean };

export interface Sender {
  readonly name: "amqp" | "http";
  /**
   * Sends as soon as the order of commands, broadcasts and events for one target allows it. `settled` is called exactly
   * once; when `isWanted` has turned false nobody waits for it any more, and it need not be sent.
   */
  post(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void;
}

/** What has the same key is for the same target. No id has a colon. */
export function targetKey(to: Target | undefined): string {
  if (to === undefined) return "events:";
  if ("component" in to) return to.component;
  if ("any" in to) return `any:${to.any}`;
  return "type" in to ? `type:${to.type}` : "all:";
}
