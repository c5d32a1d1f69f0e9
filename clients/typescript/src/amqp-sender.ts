/**
 * Sends over one AMQP session; what this site's broker has no queue for goes by the bridge, which knows why. What is for one
 * target keeps its order over both ways: neither begins before the other has taken what it has, and as long as it is not
 * known that the broker has a queue for the target one publish at a time tells.
 */
import { MusterError } from "../../../config-db/errors.ts";
import { draftOf, type Route, routeOf } from "./amqp-message.ts";
import { publishOptions } from "./amqp-options.ts";
import type { AmqpSession, PublishFailure } from "./amqp-session.ts";
import { unreachable } from "./bridge.ts";
import type { Outgoing } from "./message.ts";
import { type Sender, type Sent, targetKey } from "./transport.ts";

type Failure = PublishFailure | "late";

interface Posted {
  outgoing: Outgoing;
  settled: (sent: Sent) => void;
  isWanted: () => boolean;
}

/** One target, for as long as something is on its way there. */
interface Lane {
  key: string;
  /** Not confirmed yet. */
  published: number;
  /** Not answered by the bridge yet. */
  bridged: number;
  /** The broker has put one into a queue, and returned none since. */
  isRouted: boolean;
  waiting: Posted[];
  isAdvancing: boolean;
}

const taken: Sent = {};

export class AmqpSender implements Sender {
  readonly name = "amqp";
  readonly #session: Pick<AmqpSession, "publish" | "hasExchange">;
  readonly #self: { id: string; type: string };
  readonly #bridge: Sender;
  readonly #lanes = new Map<string, Lane>();

  constructor(
    session: Pick<AmqpSession, "publish" | "hasExchange">,
    self: { id: string; type: string },
    bridge: Sender,
  ) {
    this.#session = session;
    this.#self = self;
    this.#bridge = bridge;
  }

  post(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void {
    const posted = { outgoing, settled, isWanted };
    // Nothing has to follow a request in order, and all events go one way.
    if (outgoing.kind === "request" || outgoing.kind === "event") {
      this.#publish(outgoing, (failure) => {
        if (failure === "returned") this.#bridge.post(outgoing, settled, isWanted);
        else settled(sentOf(failure, outgoing));
      });
      return;
    }
    const lane = this.#laneOf(outgoing);
    if (lane.waiting.length === 0 && canLeave(lane, outgoing)) this.#leave(lane, posted);
    else lane.waiting.push(posted);
  }

  #laneOf({ to }: Outgoing): Lane {
    const key = targetKey(to);
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      lane = { key, published: 0, bridged: 0, isRouted: false, waiting: [], isAdvancing: false };
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  #leave(lane: Lane, posted: Posted): void {
    const { outgoing, settled } = posted;
    if (outgoing.tracked === true) {
      this.#goByBridge(lane, posted);
      return;
    }
    lane.published += 1;
    this.#publish(outgoing, (failure) => {
      lane.published -= 1;
      if (failure === "returned") {
        lane.isRouted = false;
        this.#goByBridge(lane, posted);
        return;
      }
      // A full queue is one.
      if (failure === undefined || failure === "refused") lane.isRouted = true;
      settled(sentOf(failure, outgoing));
      this.#advance(lane);
    });
  }

  #goByBridge(lane: Lane, { outgoing, settled, isWanted }: Posted): void {
    lane.bridged += 1;
    const answered = (sent: Sent) => {
      lane.bridged -= 1;
      settled(sent);
      this.#advance(lane);
    };
    this.#bridge.post(outgoing, answered, isWanted);
  }

  #advance(lane: Lane): void {
    // What cannot be published says so at once: thousands that wait must not become as many calls within each other.
    if (lane.isAdvancing) return;
    lane.isAdvancing = true;
    for (let [next] = lane.waiting; next !== undefined; [next] = lane.waiting) {
      const isWanted = next.isWanted();
      if (isWanted && !canLeave(lane, next.outgoing)) break;
      lane.waiting.shift();
      if (isWanted) this.#leave(lane, next);
      else next.settled({ error: unreachable("it waited for others to the same target"), isLost: true });
    }
    lane.isAdvancing = false;
    if (lane.published + lane.bridged + lane.waiting.length === 0) this.#lanes.delete(lane.key);
  }

  #publish(outgoing: Outgoing, settled: (failure?: Failure) => void): void {
    const route = routeOf(outgoing, this.#self);
    if (outgoing.to !== undefined && "type" in outgoing.to) void this.#publishToType(route, outgoing, settled);
    else this.#publishTo(route, outgoing, settled);
  }

  /** The exchange of a type that nobody ever registered does not exist. */
  async #publishToType(route: Route, outgoing: Outgoing, settled: (failure?: Failure) => void): Promise<void> {
    if (await this.#session.hasExchange(route.exchange)) this.#publishTo(route, outgoing, settled);
    else settled("returned");
  }

  #publishTo({ exchange, key, mandatory }: Route, outgoing: Outgoing, settled: (failure?: Failure) => void): void {
    const nowMs = Date.now();
    const { deadlineAtMs } = outgoing;
    if (deadlineAtMs !== undefined && deadlineAtMs <= nowMs) {
      settled("late");
      return;
    }
    const options = publishOptions(draftOf(outgoing, this.#self.id, mandatory), nowMs);
    this.#session.publish(exchange, key, outgoing.content, options, settled);
  }
}

function canLeave({ published, bridged, isRouted }: Lane, { tracked }: Outgoing): boolean {
  // The bridge keeps the order of what it has.
  if (tracked === true) return published === 0;
  return bridged === 0 && (isRouted || published === 0);
}

function sentOf(failure: Exclude<Failure, "returned"> | undefined, { kind, name, to }: Outgoing): Sent {
  switch (failure) {
    case undefined:
      return taken;
    case "lost":
      return { error: unreachable("the connection to the broker was lost"), isLost: true };
    case "late": {
      const told = `the deadline of the ${kind} "${name}" passed before it could be sent`;
      return { error: new MusterError("deadline-exceeded", told), isLost: false };
    }
    case "invalid": {
      // An event's routing key, for one: it has the sender's type and id in it.
      const told = `the ${kind} "${name}" cannot be sent: what surrounds its body is too long for AMQP`;
      return { error: new MusterError("invalid-request", told), isLost: false };
    }
    case "refused": {
      const told = `the queue of ${JSON.stringify(to)} is full: ${kind} "${name}" was not taken; try later`;
      return { error: new MusterError("too-many", told, { retryAfterMs: 1_000 }), isLost: false };
    }
  }
}
