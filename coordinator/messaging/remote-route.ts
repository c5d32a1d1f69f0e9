/** Where a message from another site goes on to. Pure. */
import type { ConsumeMessage, Options } from "amqplib";
import { exchanges, headers } from "../../config-db/names.ts";
import { expirationOf, shown } from "./envelope.ts";
import type { Member, Members } from "./members.ts";

/** What a message on `muster.remote` is for at the site that it comes to. */
export interface Passage {
  exchange: string;
  key: string;
  /** Sites that it was sent on from. */
  hops: number;
  /** True when it is not sent on again: two sites that each believe the other has it would play ball. */
  isLast: boolean;
}

/** What other sites may publish to; the rest is a site's own affair. */
const allowed: readonly string[] = [exchanges.unicast, exchanges.requests, exchanges.any, exchanges.reply];
const hopsMax = 3;

export function readPassage({ properties }: Pick<ConsumeMessage, "properties">): Passage | { fault: string } {
  const given: Record<string, unknown> = properties.headers ?? {};
  const { [headers.exchange]: exchange, [headers.key]: key, [headers.hops]: hops = 0 } = given;
  if (typeof exchange !== "string" || !allowed.includes(exchange)) {
    return {
      fault: `header ${headers.exchange} must be one of ${allowed.join(", ")}, got ${shown(exchange)}`,
    };
  }
  if (typeof key !== "string" || key === "" || key.length > 255) {
    return { fault: `header ${headers.key} must be a routing key, got ${shown(key)}` };
  }
  const count = typeof hops === "number" ? hops : hopsMax;
  return { exchange, key, hops: count, isLast: count >= hopsMax };
}

/** The message's properties without what was for the way: nobody behind it needs them. */
export function withoutPassage({ properties }: Pick<ConsumeMessage, "properties">, nowMs: number): Options.Publish {
  const {
    headers: given = {},
    deliveryMode,
    expiration: _,
    ...kept
  } = properties as unknown as Options.Publish & {
    headers?: Record<string, unknown>;
    deliveryMode?: number;
  };
  const way: readonly string[] = [headers.exchange, headers.key, headers.hops];
  const rest = Object.entries(given).filter(([name]) => !way.includes(name) && !name.startsWith("x-"));
  const deadline = given[headers.deadline];
  return {
    ...kept,
    persistent: deliveryMode === 2,
    headers: Object.fromEntries(rest),
    // What is left of it: the time in the link's queue counts.
    ...(typeof deadline === "number" ? expirationOf(deadline, nowMs) : {}),
  };
}

/** Who of the registry should get it: a member of this site, whose queues are missing, or the site that has it now. */
export function homeOf({ exchange, key }: Passage, members: Members, site: string): { member?: Member; site?: string } {
  const found =
    exchange === exchanges.any
      ? [...members.all()].filter((member) => member.type === key)
      : [members.get(key)].filter((member) => member !== undefined);
  const member = found.find((candidate) => candidate.site === site);
  if (member !== undefined) return { member };
  const [elsewhere] = found;
  return elsewhere === undefined ? {} : { site: elsewhere.site };
}

/** The site in a coordinator's reply key; undefined for a component's, which is its id. */
export function siteOfReplyKey(key: string): string | undefined {
  return /^(?:commands|coordinator):([^:]+)/.exec(key)?.[1];
}
