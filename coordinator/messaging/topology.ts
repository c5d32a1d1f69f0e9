/**
 * Every exchange, queue, binding and policy of Muster, as data (docs/messages.md). Provisioning makes the broker match it.
 */
import { exchanges, queues, replyKeys, reservedWords, typeSignalKey } from "../../config-db/names.ts";

/**
 * Raise when what a component's queues are bound to changes: queues that an earlier version declared are then gone over
 * again. Limits are policies and need no new version.
 */
export const topologyVersion = 1;

/** Stands in the broker when all queues there were declared by this version. */
export const versionMarker = `muster.topology.v${topologyVersion}`;

export interface ExchangePlan {
  name: string;
  type: "direct" | "fanout" | "topic";
}

export interface QueuePlan {
  name: string;
  type: "quorum" | "classic";
  /** Kept as an argument: the broker knows no policy for it. */
  singleActiveConsumer?: boolean;
}

export interface BindingPlan {
  queue: string;
  exchange: string;
  key: string;
  /** Bound only when the queue has settled: what comes to it before could be lost with the broker (docs/adr/0308). */
  settled?: true;
}

export interface Plan {
  exchanges: ExchangePlan[];
  queues: QueuePlan[];
  bindings: BindingPlan[];
}

/** What every site has, whoever is registered. */
export function sitePlan(site: string): Plan {
  return {
    exchanges: [
      { name: exchanges.unicast, type: "direct" },
      { name: exchanges.requests, type: "direct" },
      { name: exchanges.signals, type: "direct" },
      { name: exchanges.any, type: "direct" },
      { name: exchanges.all, type: "fanout" },
      { name: exchanges.reply, type: "direct" },
      { name: exchanges.remote, type: "direct" },
      { name: exchanges.elsewhere, type: "fanout" },
      { name: exchanges.events, type: "topic" },
      { name: exchanges.renewals, type: "direct" },
      { name: exchanges.dead, type: "fanout" },
    ],
    queues: [
      { name: queues.dead, type: "quorum", singleActiveConsumer: true },
      { name: queues.outcomes(site), type: "quorum", singleActiveConsumer: true },
      { name: queues.site(site), type: "quorum", singleActiveConsumer: true },
      { name: queues.elsewhere, type: "quorum", singleActiveConsumer: true },
      { name: queues.renewals, type: "classic" },
    ],
    bindings: [
      { queue: queues.dead, exchange: exchanges.dead, key: "" },
      { queue: queues.outcomes(site), exchange: exchanges.reply, key: replyKeys.commands(site) },
      { queue: queues.renewals, exchange: exchanges.renewals, key: "" },
      { queue: queues.site(site), exchange: exchanges.remote, key: site },
      { queue: queues.elsewhere, exchange: exchanges.elsewhere, key: "" },
    ],
  };
}

/** What a component has of its own, and what its type shares. Clients wait for the commands queue: it is the last. */
export function componentPlan(component: { id: string; type: string }): Plan {
  const { id, type } = component;
  return {
    exchanges: [{ name: exchanges.type(type), type: "fanout" }],
    queues: [
      { name: queues.any(type), type: "quorum" },
      { name: queues.broadcasts(id), type: "classic" },
      { name: queues.replies(id), type: "classic" },
      { name: queues.requests(id), type: "classic" },
      { name: queues.commands(id), type: "quorum" },
    ],
    bindings: [
      { queue: queues.any(type), exchange: exchanges.any, key: type, settled: true },
      { queue: queues.broadcasts(id), exchange: exchanges.type(type), key: "" },
      { queue: queues.broadcasts(id), exchange: exchanges.all, key: "" },
      { queue: queues.broadcasts(id), exchange: exchanges.signals, key: id },
      { queue: queues.broadcasts(id), exchange: exchanges.signals, key: typeSignalKey(type) },
      { queue: queues.replies(id), exchange: exchanges.reply, key: id },
      { queue: queues.requests(id), exchange: exchanges.requests, key: id },
      { queue: queues.commands(id), exchange: exchanges.unicast, key: id, settled: true },
    ],
  };
}

/** Where messages come from and by which key. */
export type Source = Omit<BindingPlan, "queue">;

/** What a component's messages come by and no other's do; with `isLast` also what is for all and any one of its type. */
export function sourcesOfItsOwn({ id, type }: { id: string; type: string }, isLast: boolean): Source[] {
  const isOwn = ({ exchange, key }: Source) => exchange !== exchanges.any && key === id;
  const isShared = ({ exchange }: Source) => exchange === exchanges.all;
  return componentPlan({ id, type }).bindings.filter((source) => isOwn(source) || (isLast && !isShared(source)));
}

/** Limits of the queues. Every one can be set; the reasons stand in docs/messages.md. */
export interface QueueLimits {
  /** A commands or any queue refuses more than these: its senders get 429. */
  commandsMax: number;
  commandsBytesMax: number;
  /** Deliveries that ended without an ack or reject before the broker gives a message up; RabbitMQ 4's own default. */
  deliveriesMax: number;
  /** Broadcasts waiting for a component that is away: the oldest go first, after this time all. */
  broadcastsMax: number;
  broadcastsBytesMax: number;
  broadcastsTtlMs: number;
  requestsMax: number;
  repliesMax: number;
  repliesTtlMs: number;
  /** Dead letters that wait for the coordinator to take them into the store. */
  deadBytesMax: number;
  /** What waits for one other site while the link with it is cut. */
  linkBytesMax: number;
}

export const defaultQueueLimits: QueueLimits = {
  commandsMax: 100_000,
  commandsBytesMax: 256 * 1024 * 1024,
  deliveriesMax: 20,
  broadcastsMax: 10_000,
  broadcastsBytesMax: 64 * 1024 * 1024,
  broadcastsTtlMs: 24 * 3_600_000,
  requestsMax: 10_000,
  repliesMax: 10_000,
  repliesTtlMs: 24 * 3_600_000,
  deadBytesMax: 1024 * 1024 * 1024,
  linkBytesMax: 1024 * 1024 * 1024,
};

export interface PolicyPlan {
  name: string;
  /** Of the names. One policy applies to a queue or exchange, the one of the highest priority. */
  pattern: string;
  /** Default: queues. */
  applyTo?: "queues" | "exchanges";
  /** Default: `policyPriority`. */
  priority?: number;
  definition: Record<string, string | number>;
}

/** Above the policies that operators tend to have (0 to 9); theirs can still go above. */
export const policyPriority = 20;

/** A request waits in its queue at most as long as the longest `timeoutMs`. */
const requestsTtlMs = 60_000;
/** Older renewals tell the leader nothing. */
const renewalsTtlMs = 10_000;
/** Far above any number of coordinator restarts: what stands here is the coordinator's own bookkeeping. */
const ownDeliveriesMax = 100_000;

/** How the names of components' own queues begin; types and sites may end as those do, in `muster.any.order.requests`. */
const ofComponent = `^muster\\.(?!(${reservedWords})\\.).+\\.`;

export function policyPlans(limits: QueueLimits): PolicyPlan[] {
  const deadLetters = { "dead-letter-exchange": exchanges.dead };
  return [
    {
      name: "muster-commands",
      pattern: `${ofComponent}commands$|^muster\\.any\\.`,
      definition: {
        ...deadLetters,
        // At least once needs reject-publish: nothing may be dropped to make room.
        "dead-letter-strategy": "at-least-once",
        overflow: "reject-publish",
        "delivery-limit": limits.deliveriesMax,
        "max-length": limits.commandsMax,
        "max-length-bytes": limits.commandsBytesMax,
      },
    },
    {
      name: "muster-broadcasts",
      pattern: `${ofComponent}broadcasts$`,
      definition: {
        ...deadLetters,
        overflow: "drop-head",
        "max-length": limits.broadcastsMax,
        "max-length-bytes": limits.broadcastsBytesMax,
        "message-ttl": limits.broadcastsTtlMs,
      },
    },
    {
      name: "muster-requests",
      pattern: `${ofComponent}requests$`,
      definition: {
        ...deadLetters,
        overflow: "reject-publish",
        "max-length": limits.requestsMax,
        "message-ttl": requestsTtlMs,
      },
    },
    {
      name: "muster-replies",
      pattern: `${ofComponent}replies$`,
      definition: { overflow: "drop-head", "max-length": limits.repliesMax, "message-ttl": limits.repliesTtlMs },
    },
    {
      name: "muster-own",
      pattern: "^muster\\.(dead$|outcomes\\.|leader\\.|site\\.)",
      definition: {
        overflow: "reject-publish",
        "delivery-limit": ownDeliveriesMax,
        "max-length-bytes": limits.deadBytesMax,
      },
    },
    {
      name: "muster-renewals",
      pattern: "^muster\\.renewals$",
      definition: { overflow: "drop-head", "max-length": 100_000, "message-ttl": renewalsTtlMs },
    },
    {
      // An answer to a broadcast of another site has no queue here: a coordinator passes it on.
      name: "muster-answers-elsewhere",
      pattern: "^muster\\.reply$",
      applyTo: "exchanges",
      definition: { "alternate-exchange": exchanges.elsewhere },
    },
    {
      name: "muster-elsewhere",
      pattern: "^muster\\.elsewhere$",
      definition: {
        overflow: "drop-head",
        "delivery-limit": ownDeliveriesMax,
        "max-length": limits.repliesMax,
        "message-ttl": requestsTtlMs,
      },
    },
    {
      // What waits here for another site while the link is cut: commands must not be dropped, broadcasts may.
      name: "muster-link-remote",
      pattern: "^federation: muster\\.remote ",
      definition: { overflow: "reject-publish", "max-length-bytes": limits.linkBytesMax },
    },
    {
      name: "muster-link-broadcasts",
      pattern: "^federation: muster\\.",
      priority: 19,
      definition: { overflow: "drop-head", "max-length-bytes": limits.linkBytesMax },
    },
  ];
}

/**
 * The policy of a queue as arguments of its declaration, for brokers whose management API cannot be had
 * (docs/adr/0303). Such a queue keeps its limits until it is deleted.
 */
export function policyAsArguments(queue: string, policies: PolicyPlan[]): Record<string, string | number> {
  const policy = policies.find(({ pattern, applyTo }) => applyTo !== "exchanges" && new RegExp(pattern).test(queue));
  return Object.fromEntries(Object.entries(policy?.definition ?? {}).map(([key, value]) => [`x-${key}`, value]));
}
