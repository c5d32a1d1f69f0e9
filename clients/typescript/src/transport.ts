/** What can carry outgoing messages: the seam between the outbox and AMQP or HTTP. */
import type { MusterError } from "../../../config-db/errors.ts";
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
   * Sends now, in the order of the calls for one target. `settled` is called at most once; `isWanted` turns false when
   * nobody waits for it any more.
   */
  post(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void;
}
