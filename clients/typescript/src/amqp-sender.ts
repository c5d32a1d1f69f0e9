/** Sends over one AMQP session; what this site's broker has no queue for goes by the bridge, which knows why. */
import { MusterError } from "../../../config-db/errors.ts";
import { draftOf, routeOf } from "./amqp-message.ts";
import { publishOptions } from "./amqp-options.ts";
import type { AmqpSession, PublishFailure } from "./amqp-session.ts";
import { unreachable } from "./bridge.ts";
import type { Outgoing } from "./message.ts";
import type { Sender, Sent } from "./transport.ts";

const taken: Sent = {};

export class AmqpSender implements Sender {
  readonly name = "amqp";
  readonly #session: AmqpSession;
  readonly #self: { id: string; type: string };
  readonly #bridge: Sender;

  constructor(session: AmqpSession, self: { id: string; type: string }, bridge: Sender) {
    this.#session = session;
    this.#self = self;
    this.#bridge = bridge;
  }

  post(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void {
    if (outgoing.tracked === true) {
      this.#bridge.post(outgoing, settled, isWanted);
    } else if (outgoing.to !== undefined && "type" in outgoing.to) {
      void this.#postToType(outgoing, settled, isWanted);
    } else {
      this.#publish(outgoing, settled, isWanted);
    }
  }

  /** The exchange of a type that nobody ever registered does not exist. */
  async #postToType(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): Promise<void> {
    const { exchange } = routeOf(outgoing, this.#self);
    const exists = await this.#session.hasExchange(exchange);
    if (exists) this.#publish(outgoing, settled, isWanted);
    else this.#bridge.post(outgoing, settled, isWanted);
  }

  #publish(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void {
    const { exchange, key, mandatory } = routeOf(outgoing, this.#self);
    const nowMs = Date.now();
    const { deadlineAtMs } = outgoing;
    if (deadlineAtMs !== undefined && deadlineAtMs <= nowMs) {
      settled(tooLate(outgoing));
      return;
    }
    const options = publishOptions(draftOf(outgoing, this.#self.id, mandatory), nowMs);
    this.#session.publish(exchange, key, outgoing.content, options, (failure) => {
      if (failure === undefined) settled(taken);
      else if (failure === "returned") this.#bridge.post(outgoing, settled, isWanted);
      else settled(failed(failure, outgoing));
    });
  }
}

function tooLate({ kind, name }: Outgoing): Sent {
  const told = `the deadline of the ${kind} "${name}" passed before it could be sent`;
  return { error: new MusterError("deadline-exceeded", told), isLost: false };
}

function failed(failure: Exclude<PublishFailure, "returned">, { kind, name, to }: Outgoing): Sent {
  if (failure === "lost") return { error: unreachable("the connection to the broker was lost"), isLost: true };
  if (failure === "invalid") {
    // An event's routing key, for one: it has the sender's type and id in it.
    const told = `the ${kind} "${name}" cannot be sent: what surrounds its body is too long for AMQP`;
    return { error: new MusterError("invalid-request", told), isLost: false };
  }
  const told = `the queue of ${JSON.stringify(to)} is full: ${kind} "${name}" was not taken; try later`;
  return { error: new MusterError("too-many", told, { retryAfterMs: 1_000 }), isLost: false };
}
