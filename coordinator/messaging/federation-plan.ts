/** What the broker has to have for its links with other sites. Pure. */
import type { PolicyPlan } from "./topology.ts";

export interface LinkedSite {
  name: string;
  /** Its broker, with credentials of a user who may declare there. */
  amqpUrl: string;
}

/** Upstreams and sets of this name are Muster's; all others are left alone. */
export const ownedPrefix = "muster";

/**
 * What waits at the other broker while the link is cut: a week, as long as a silent component's queues are kept. After that
 * the other site lets go of what nobody fetches.
 */
const absenceMaxMs = 7 * 24 * 3_600_000;
/** A link that swallows everything is noticed by this, and tried again so soon. */
const heartbeatSeconds = 10;
const reconnectSeconds = 1;

export interface FederationPlan {
  upstreams: Record<string, Record<string, unknown>>;
  set: { upstream: string }[];
  policies: PolicyPlan[];
}

export function federationPlan(links: LinkedSite[]): FederationPlan {
  const nameOf = ({ name }: LinkedSite) => `${ownedPrefix}-${name}`;
  return {
    upstreams: Object.fromEntries(links.map((link) => [nameOf(link), upstream(link)])),
    set: links.map((link) => ({ upstream: nameOf(link) })),
    policies: [
      {
        name: "muster-federation",
        pattern: "^muster\\.(type\\..+|all|events|remote)$",
        applyTo: "exchanges",
        definition: { "federation-upstream-set": ownedPrefix },
      },
    ],
  };
}

function upstream({ amqpUrl }: LinkedSite): Record<string, unknown> {
  return {
    uri: withHeartbeat(amqpUrl),
    // A message goes to the sites that are linked with its own, not on from there: no second way, no second copy.
    "max-hops": 1,
    "ack-mode": "on-confirm",
    "prefetch-count": 1000,
    "reconnect-delay": reconnectSeconds,
    expires: absenceMaxMs,
    "message-ttl": absenceMaxMs,
  };
}

function withHeartbeat(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  if (!url.searchParams.has("heartbeat")) url.searchParams.set("heartbeat", String(heartbeatSeconds));
  return url.href;
}

export function peerUrlWithoutCredentials(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  return `${url.protocol}//${url.host}${url.pathname}`;
}
