/**
 * The only place that builds document ids and the names of exchanges, queues and routing keys.
 * Clients in other languages build the same ones: docs/protocol.md lists them.
 */
import { MusterError } from "./errors.ts";

/** Ids of components, types, sub-systems and sites. 63 characters: they are DNS labels and parts of queue names. */
export const idPattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

export const databases = { config: "muster-config", registry: "muster-registry", commands: "muster-commands" } as const;
export type DatabaseName = (typeof databases)[keyof typeof databases];

// --- documents -------------------------------------------------------------------------------------------------

/** A layer's name as it stands in URLs and in `_id`: `platform`, `subsystem:<s>`, `type:<t>`, `component:<id>`. */
export type LayerName = "platform" | `subsystem:${string}` | `type:${string}` | `component:${string}`;

/** The layers of a component, the weakest first: the order in which they are merged. */
export function layersOf(component: { id: string; type?: string; subsystem?: string }): LayerName[] {
  const names: LayerName[] = ["platform"];
  if (component.subsystem !== undefined) names.push(`subsystem:${component.subsystem}`);
  if (component.type !== undefined) names.push(`type:${component.type}`);
  names.push(`component:${component.id}`);
  return names;
}

/** @throws MusterError `invalid-request` when `text` is not a layer's name. */
export function parseLayerName(text: string): LayerName {
  const [scope, id, ...rest] = text.split(":");
  const named = scope === "subsystem" || scope === "type" || scope === "component";
  if (text === "platform" || (named && rest.length === 0 && id !== undefined && idPattern.test(id))) {
    return text as LayerName;
  }
  throw new MusterError(
    "invalid-request",
    `"${text.slice(0, 100)}" is not a layer: use platform, subsystem:<s>, type:<t> or component:<id>, ` +
      `where the id matches ${idPattern.source}`,
  );
}

export const documentId = {
  layer: (layer: LayerName) => `layer:${layer}`,
  schema: (type: string) => `schema:${type}`,
  history: (layer: LayerName, rev: string) => `history:${layer}@${rev}`,
  candidate: (layer: LayerName) => `candidate:${layer}`,
  secret: (name: string) => `secret:${name}`,
  content: (sha256: string) => `content:${sha256}`,
  fault: (document: string, rev: string) => `fault:${document}@${rev}`,
  objection: (site: string, document: string, rev: string) => `objection:${site}:${document}@${rev}`,
  component: (id: string) => `component:${id}`,
  site: (site: string) => `site:${site}`,
  command: (id: string) => `command:${id}`,
  deadLetter: (id: string) => `dead:${id}`,
  conflict: (record: string, hash: string) => `conflict:${record}@${hash}`,
  peer: (site: string) => `peer:${site}`,
} as const;

// --- messages --------------------------------------------------------------------------------------------------

export const exchanges = {
  unicast: "muster.unicast",
  requests: "muster.requests",
  signals: "muster.signals",
  any: "muster.any",
  all: "muster.all",
  type: (type: string) => `muster.type.${type}`,
  reply: "muster.reply",
  remote: "muster.remote",
  /** Where `muster.reply` puts what has no queue at this site. */
  elsewhere: "muster.elsewhere",
  events: "muster.events",
  renewals: "muster.renewals",
  dead: "muster.dead",
  /** Where copies go while somebody taps. */
  tap: "muster.tap",
} as const;

export const queues = {
  commands: (component: string) => `muster.${component}.commands`,
  requests: (component: string) => `muster.${component}.requests`,
  broadcasts: (component: string) => `muster.${component}.broadcasts`,
  replies: (component: string) => `muster.${component}.replies`,
  any: (type: string) => `muster.any.${type}`,
  site: (site: string) => `muster.site.${site}`,
  elsewhere: "muster.elsewhere",
  renewals: "muster.renewals",
  dead: "muster.dead",
  leader: (site: string) => `muster.leader.${site}`,
  outcomes: (site: string) => `muster.outcomes.${site}`,
} as const;

/** First words, after `muster.`, of queues that are no component's own. */
export const reservedWords = "any|site|leader|outcomes";

/**
 * Ids that no component may have: the names of their queues would be those of other queues (`muster.any.commands` is
 * both the queue of the type "commands" and the commands of a component "any").
 */
export const reservedIdPattern = new RegExp(`^(${reservedWords})(\\.|$)`);

/**
 * Routing keys on `muster.reply`: a component's id, or one of these. The colon keeps them apart: no id has one. The
 * site is in the key so that an answer from another site finds its way.
 */
export const replyKeys = {
  /** Outcomes of the commands that a site's coordinators keep track of. */
  commands: (site: string) => `commands:${site}`,
  /** Replies to what one coordinator process asked. */
  coordinator: (site: string, token: string) => `coordinator:${site}:${token}`,
} as const;

/** The routing key of an event on `muster.events`. */
export const eventKey = (type: string, component: string, event: string) => `${type}.${component}.${event}`;

/** The routing key on `muster.signals` of all components of a type; a single one's is its id. */
export const typeSignalKey = (type: string) => `type:${type}`;

/** Message headers of Muster's own; all others are AMQP properties. */
export const headers = {
  from: "muster-from",
  deadline: "muster-deadline",
  kind: "muster-kind",
  epoch: "muster-epoch",
  attempt: "muster-attempt",
  /** How often a dead letter was sent again. */
  redriven: "muster-redriven",
  reason: "muster-reason",
  error: "muster-error",
  to: "muster-to",
  /** The site that a message came from, when another one. */
  site: "muster-site",
  /** On `muster.remote`: the exchange and routing key that the message is for at the other site. */
  exchange: "muster-exchange",
  key: "muster-key",
  /** On `muster.remote`: how many sites have sent it on. */
  hops: "muster-hops",
  traceparent: "traceparent",
} as const;

const ownHeaderNames: readonly string[] = Object.values(headers);
/** The longest of ours is a reason. */
const ownHeaderCharactersMax = 1_000;

/** Those of a message's headers that are Muster's own, each as short as it should be: what else there is may fill a frame. */
export function ownHeaders(given: Record<string, unknown>): Record<string, unknown> {
  const isShort = (value: unknown) => typeof value !== "object" && String(value).length <= ownHeaderCharactersMax;
  const isOwn = ([name, value]: [string, unknown]) => ownHeaderNames.includes(name) && isShort(value);
  return Object.fromEntries(Object.entries(given).filter(isOwn));
}

export const messageKinds = ["command", "request", "reply", "outcome", "broadcast", "event", "signal"] as const;
export type MessageKind = (typeof messageKinds)[number];
