/** Sending commands, requests and signals for those who speak to the coordinator. */
import { MusterError } from "../../config-db/errors.ts";
import type { Target } from "../../config-db/generated/types.ts";
import { exchanges, headers } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type Envelope, type Letter, publishOptions } from "./envelope.ts";
import type { Member, Members } from "./members.ts";
import type { Provisioning } from "./provisioning.ts";
import type { PublishOutcome } from "./publisher.ts";

export interface SenderOptions {
  broker: Broker;
  provisioning: Provisioning;
  members: Members;
  site: string;
  wallClock: () => Date;
}

/** Where a letter goes. `remote` is the site that has the target, when it is not this one. */
export interface RoutePlan {
  exchange: string;
  key: string;
  /** Whom it reaches as the registry knows it now; for `any` those of whom one will get it. */
  recipients: Member[];
  remote?: string;
}

/**
 * Decides where a message for `target` goes.
 * @throws MusterError `no-such-target` when the registry knows nobody whom it could reach.
 */
export function planRoute(target: Target, kind: "command" | "request", members: Members, site: string): RoutePlan {
  if ("component" in target) {
    const member = members.get(target.component);
    if (member === undefined) throw noSuchTarget(`no component "${target.component}" is registered`);
    const exchange = kind === "request" ? exchanges.requests : exchanges.unicast;
    return { exchange, key: member.id, recipients: [member], ...elsewhere(member.site, site) };
  }
  if ("any" in target) {
    const recipients = ofType(members, target.any);
    // A queue of the type that nobody here shares would keep the message for ever.
    const home = recipients.find((member) => member.site === site) ?? recipients.find(isUp) ?? recipients[0];
    if (home === undefined) throw noSuchTarget(`no component of type "${target.any}" is registered`);
    return {
      exchange: exchanges.any,
      key: target.any,
      recipients: recipients.filter((member) => member.site === home.site),
      ...elsewhere(home.site, site),
    };
  }
  if ("type" in target) {
    const recipients = ofType(members, target.type);
    if (recipients.length === 0) throw noSuchTarget(`no component of type "${target.type}" is registered`);
    return { exchange: exchanges.type(target.type), key: "", recipients };
  }
  const recipients = [...members.all()];
  if (recipients.length === 0) throw noSuchTarget("no component is registered");
  return { exchange: exchanges.all, key: "", recipients };
}

function ofType(members: Members, type: string): Member[] {
  return [...members.all()].filter((member) => member.type === type);
}

function isUp(member: Member): boolean {
  return member.state === "up";
}

function elsewhere(home: string, site: string): { remote?: string } {
  return home === site ? {} : { remote: home };
}

function noSuchTarget(what: string): MusterError {
  return new MusterError("no-such-target", `${what}; nothing was sent`);
}

export class Sender {
  readonly #options: SenderOptions;

  constructor(options: SenderOptions) {
    this.#options = options;
  }

  plan(target: Target, kind: "command" | "request"): RoutePlan {
    const { members, site } = this.#options;
    return planRoute(target, kind, members, site);
  }

  /** Whether a message to many on this exchange reaches a component, as the registry knows it now. */
  reaches({ exchange }: RoutePlan, id: string): boolean {
    const member = this.#options.members.get(id);
    return member !== undefined && (exchange === exchanges.all || exchange === exchanges.type(member.type));
  }

  /**
   * Sends a letter by its plan; resolves when the broker has it.
   * @throws MusterError `no-such-target`, `too-many` when the target's queue is full, `broker-unavailable`.
   */
  async send(plan: RoutePlan, letter: Letter): Promise<void> {
    const { provisioning, site } = this.#options;
    // Right after a start the exchanges may not stand yet: a publish to a missing one costs the whole channel.
    await provisioning.ready(plan.remote === undefined ? plan.exchange : exchanges.remote);
    if (plan.remote !== undefined) return this.#sendRemote(plan.remote, plan, letter);
    const here = plan.recipients.filter((member) => member.site === site);
    if (plan.key === "") {
      // A fanout cannot say whom it missed.
      if (plan.exchange !== exchanges.all) await provisioning.typeExchange(plan.recipients[0]?.type ?? "");
      await Promise.all(here.map((member) => provisioning.declared(member)));
      const outcome = await this.#publish(plan, letter, here.length > 0);
      if (outcome !== "unroutable") return expectTaken(outcome, plan);
      // All that was bound there is gone with the exchange, or by hand.
      await Promise.all(here.map((member) => provisioning.repair(member, false)));
      expectTaken(await this.#publish(plan, letter, false), plan);
      return;
    }
    const outcome = await this.#publish(plan, letter, true);
    if (outcome !== "unroutable") return expectTaken(outcome, plan);
    // Registered, and yet no queue: it waits to be declared, or somebody deleted it.
    const [first] = here;
    if (first !== undefined) await provisioning.repair(first, plan.exchange !== exchanges.requests);
    expectTaken(await this.#publish(plan, letter, true), plan);
  }

  /**
   * Publishes for another site: `muster.remote` is federated, the site's leader passes it on to `exchange` and `key`.
   * @throws MusterError `broker-unavailable` when that site is not linked with this one.
   */
  async #sendRemote(remote: string, { exchange, key }: RoutePlan, letter: Letter): Promise<void> {
    const { broker, site, wallClock } = this.#options;
    const options = publishOptions({ ...letter.envelope, originSite: site }, wallClock().getTime(), {
      persistent: true,
    });
    const outcome = await broker.publish({
      exchange: exchanges.remote,
      key: remote,
      content: letter.content,
      options: {
        ...options,
        mandatory: true,
        headers: { ...options.headers, [headers.exchange]: exchange, [headers.key]: key },
      },
    });
    if (outcome === "routed") return;
    throw new MusterError(
      "broker-unavailable",
      `the target is at the site "${remote}", which is not linked with this one`,
      {
        retryAfterMs: 5_000,
      },
    );
  }

  #publish({ exchange, key }: RoutePlan, { envelope, content }: Letter, mandatory: boolean): Promise<PublishOutcome> {
    const persistent = envelope.kind === "command" || envelope.kind === "broadcast";
    const options = publishOptions(envelope, this.#options.wallClock().getTime(), { persistent });
    return this.#options.broker.publish({ exchange, key, content, options: { ...options, mandatory } });
  }
}

function expectTaken(outcome: PublishOutcome, { exchange, key }: RoutePlan): void {
  if (outcome === "unroutable") throw noSuchTarget(`no queue takes messages for "${key}" on ${exchange}`);
  if (outcome === "full")
    throw new MusterError("too-many", `the queue of "${key}" is full and takes no more; try again later`, {
      retryAfterMs: 5_000,
    });
}

/** What a caller gives of a message; the rest of the envelope is filled in. */
export type Draft = Pick<Envelope, "messageId" | "kind" | "name"> & Partial<Envelope>;

export function draftLetter(draft: Draft, content: Buffer, nowMs: number): Letter {
  return { envelope: { contentType: "application/json", attempt: 1, sentAtMs: nowMs, ...draft }, content };
}
