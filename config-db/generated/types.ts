/* Generated from config-db/schemas by `npm run generate`. Do not edit. */

export type Id = string;
export type Layer = string;
export type Count = number;
/**
 * RFC 3339, UTC
 */
export type Timestamp = string;
/**
 * @maxItems 64
 */
export type Tags = string[];
/**
 * Milliseconds.
 */
export type TtlMs = number;
/**
 * Whom a message is for.
 */
export type Target =
  | {
      component: Id;
    }
  | {
      type: Id;
    }
  | {
      any: Id;
    }
  | {
      all: true;
    };
/**
 * ASCII: AMQP carries at most 255 bytes.
 */
export type MediaType = string;
export type MessageName = string;
/**
 * POST /v1/conflicts/{id}/resolution
 */
export type ConflictResolution =
  | {
      /**
       * `rev` of a candidate.
       */
      choose: string;
    }
  | {
      /**
       * Any JSON value: neither side's, or a mixture.
       */
      value: unknown;
    };
/**
 * POST /v1/config/validate
 */
export type ValidateRequest =
  | {
      layer: Layer;
      settings: Settings;
    }
  | {
      type: Id;
      schema: {
        [k: string]: unknown;
      };
    };

/**
 * Any JSON object.
 */
export interface Settings {
  [k: string]: unknown;
}
/**
 * Name to URL.
 */
export interface Endpoints {
  [k: string]: string;
}
/**
 * Name to any JSON value; discovery can ask for equality of strings, numbers and booleans.
 */
export interface Metadata {
  [k: string]: unknown;
}
export interface Health {
  status: "passing" | "warning" | "failing";
  reason?: string;
}
export interface Webhook {
  url: string;
  secret: string;
}
/**
 * A revision of a layer: its CouchDB `_rev` and the version it has there.
 */
export interface Revision {
  rev: string;
  version: Count;
}
/**
 * Raw content attached to a layer: file name to what it is.
 */
export interface ContentList {
  [k: string]: Content;
}
/**
 * The bytes are the attachment `data` of the document `content:<sha256>`.
 */
export interface Content {
  contentType: string;
  sha256: string;
  sizeBytes: number;
}
/**
 * Which components a candidate is for: those that meet every condition given; a list is met by any of its entries.
 */
export interface Selector {
  tags?: Tags;
  /**
   * @minItems 1
   * @maxItems 64
   */
  sites?: [Id, ...Id[]];
  /**
   * @minItems 1
   * @maxItems 1000
   */
  components?: [Id, ...Id[]];
  percent?: number;
}
export interface PromoteWhen {
  /**
   * So many applied it, and none rejected it.
   */
  applied: number;
}
/**
 * AES-256-GCM, each part in base64; the name of the secret is the additional data.
 */
export interface Sealed {
  iv: string;
  tag: string;
  ciphertext: string;
}
export interface ConfigStatus {
  etag: string;
  status: "applied" | "rejected";
  reason?: string;
  at: Timestamp;
}
export interface TargetState {
  state: "queued" | "delivered" | "done" | "failed" | "expired" | "dead-lettered";
  at: Timestamp;
  attempt?: number;
  reason?: string;
  /**
   * How often it was sent again from its dead letter, without its deadline.
   */
  redriven?: number;
}
export interface DeadLetterMatch {
  /**
   * The component, or any:<type>.
   */
  to?: string;
  from?: Id;
  name?: MessageName;
  state?: "failed" | "expired" | "dead-lettered";
}
/**
 * `candidate:<layer>` in muster-config: settings that a part of the components gets in place of the layer's own. `base` is the revision of the layer that it was made from; absent where there was none.
 */
export interface CandidateDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "candidate";
  schemaVersion: 1;
  layer: Layer;
  settings: Settings;
  note?: string;
  selector: Selector;
  promoteWhen?: PromoteWhen;
  withdrawOnReject?: boolean;
  base?: Revision;
  /**
   * Only a staged one has an effect.
   */
  state: "staged" | "promoted" | "withdrawn";
  /**
   * RFC 3339, UTC
   */
  promotingSince?: string;
  /**
   * Why it was withdrawn.
   */
  reason?: string;
  version: Count;
  changedBy: string;
  changedAt: Timestamp;
  site: Id;
}
/**
 * PUT /v1/config/layers/{layer}/candidate
 */
export interface CandidateWrite {
  settings: Settings;
  note?: string;
  selector: Selector;
  promoteWhen?: PromoteWhen;
  withdrawOnReject?: boolean;
}
/**
 * `command:<id>` in muster-commands: what became of a tracked command, per target.
 */
export interface CommandDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "command";
  schemaVersion: 1;
  id: string;
  to: Target;
  name: MessageName;
  from?: Id;
  sentAt: Timestamp;
  deadlineAt?: Timestamp;
  /**
   * Of the request, to tell a repetition from another one under the same key.
   */
  fingerprint?: string;
  /**
   * The broker has it: a repetition of the request sends nothing.
   */
  sent?: true;
  /**
   * By component; `any:<type>` until one of the type has it.
   */
  targets: {
    [k: string]: TargetState;
  };
  [k: string]: unknown;
}
/**
 * POST /v1/commands
 */
export interface CommandRequest {
  to: Target;
  name: MessageName;
  /**
   * Any JSON value.
   */
  body?: unknown;
  contentType?: MediaType;
  bodyBase64?: string;
  from?: Id;
  /**
   * Milliseconds from now; not handled after that.
   */
  deadlineMs?: number;
  /**
   * False: nothing is kept of it, GET /v1/commands/{id} will not know it.
   */
  track?: boolean;
}
/**
 * `component:<id>` in muster-registry. Its one writer is the leading coordinator of its home site, or, with `lease: self`, the component.
 */
export interface ComponentDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "component";
  schemaVersion: 1;
  id: Id;
  type: Id;
  subsystem?: Id;
  site: Id;
  endpoints?: Endpoints;
  tags?: Tags;
  metadata?: Metadata;
  version?: string;
  ttlMs: TtlMs;
  state: "up" | "expired" | "gone";
  /**
   * A random string of the process that registered.
   */
  instance?: string;
  /**
   * Rises with every new process under this id.
   */
  incarnation: number;
  registeredAt: Timestamp;
  changedAt: Timestamp;
  health?: Health;
  configStatus?: ConfigStatus;
  webhook?: Webhook;
  /**
   * The component refreshes `renewal` itself, in the store.
   */
  lease?: "self";
  renewal?: number;
  /**
   * Of a tombstone: at the component's home site its queues may still stand. The last write of a removal takes it away.
   */
  removing?: true;
  /**
   * Of the leader that wrote it: a lower one is refused.
   */
  epoch?: number;
}
/**
 * PUT /v1/components/{id}/config/status
 */
export interface ConfigStatusReport {
  etag: string;
  status: "applied" | "rejected";
  reason?: string;
}
/**
 * `conflict:<record>@<hash>` in muster-config: a place of a record that sites changed at once, each in its own way. Id, content and `_rev` follow from what collided. Closed by a tombstone that keeps every field.
 */
export interface ConflictDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "conflict";
  schemaVersion: 1;
  /**
   * `_id` of the document in conflict.
   */
  record: string;
  part: "settings" | "content" | "document";
  /**
   * JSON Pointer below `part`; empty for a whole document.
   */
  pointer: string;
  /**
   * What was there before; absent where nothing was.
   */
  base?: {
    /**
     * Any JSON value.
     */
    value: unknown;
  };
  candidates: {
    rev: string;
    version: Count;
    site: Id;
    changedBy: string;
    changedAt: Timestamp;
    /**
     * Any JSON value; absent where that side has nothing there.
     */
    value?: unknown;
    /**
     * That revision is none of its kind and had no effect: it cannot be chosen. `value` is absent where it is no sound JSON.
     */
    unusable?: true;
  }[];
  /**
   * Of a tombstone: how an operator closed it.
   */
  closed?: {
    by: string;
    at: Timestamp;
    site: Id;
    chosen?: string;
    /**
     * What shall be there, as the operator said; without `value`: nothing.
     */
    answer?: {
      /**
       * Any JSON value.
       */
      value?: unknown;
    };
  };
}
/**
 * POST /v1/components/{id}/inbox/{delivery}/nack
 */
export interface DeliveryNack {
  reason?: string;
  /**
   * What a requester is told: that the handler failed, or took too long.
   */
  code?: "handler-failed" | "deadline-exceeded";
  delayMs?: number;
  /**
   * No further attempt can help: a dead letter at once.
   */
  final?: boolean;
  /**
   * Nothing of this name is handled here: as final, but a broadcast only fails and is no dead letter.
   */
  unhandled?: boolean;
}
/**
 * POST /v1/components/{id}/inbox/{delivery}/reply
 */
export interface DeliveryReply {
  /**
   * Any JSON value.
   */
  body?: unknown;
  contentType?: MediaType;
  bodyBase64?: string;
}
/**
 * POST /v1/events
 */
export interface EventRequest {
  name: MessageName;
  /**
   * Any JSON value.
   */
  body?: unknown;
  contentType?: MediaType;
  bodyBase64?: string;
  from?: Id;
}
/**
 * `fault:<document>@<rev>` in muster-config: that revision of a layer, a schema or a candidate came in by replication and breaks components; until it is replaced, `active` is in force instead (absent: nothing).
 */
export interface FaultDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "fault";
  schemaVersion: 1;
  document: string;
  rev: string;
  active?: {
    /**
     * Settings, or a JSON Schema.
     */
    content: {
      [k: string]: unknown;
    };
    version: Count;
    rev: string;
  };
}
/**
 * `history:<layer>@<rev>` in muster-config: what a layer was at one revision. Its content follows from that revision alone and its `_rev` from its content, so that every site writes the same document.
 */
export interface HistoryDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "history";
  schemaVersion: 1;
  layer: Layer;
  /**
   * The layer's `_rev` then.
   */
  rev: string;
  settings: Settings;
  version: Count;
  changedBy: string;
  changedAt: Timestamp;
  site: Id;
  note?: string;
  parent?: Revision;
  /**
   * Other revisions that went into this one when sites had changed the layer at once.
   */
  merged?: Revision[];
  content?: ContentList;
  /**
   * The layer was deleted by this revision.
   */
  deleted?: true;
}
/**
 * `layer:<layer>` in muster-config: one layer of settings. Its tombstone keeps every field, with empty settings. `parent` is what this revision was made from; absent in the first.
 */
export interface LayerDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "layer";
  schemaVersion: 1;
  layer: Layer;
  settings: Settings;
  /**
   * Counts up with every write of this layer.
   */
  version: number;
  changedBy: string;
  changedAt: Timestamp;
  site: Id;
  note?: string;
  parent?: Revision;
  /**
   * Other revisions that went into this one when sites had changed the layer at once.
   */
  merged?: Revision[];
  /**
   * Of a tombstone: not a deletion, the end of a branch whose content went into that revision.
   */
  mergedInto?: string;
  content?: ContentList;
}
/**
 * PUT and PATCH /v1/config/layers/{layer}
 */
export interface LayerWrite {
  settings: Settings;
  note?: string;
}
/**
 * `objection:<site>:<document>@<rev>` in muster-config: a coordinator of that site holds that revision of a layer, a schema or a candidate, over `active` (absent: nothing), and its leader has not said whether it is to be held.
 */
export interface ObjectionDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "objection";
  schemaVersion: 1;
  site: Id;
  document: string;
  rev: string;
  active?: {
    /**
     * Settings, or a JSON Schema.
     */
    content: {
      [k: string]: unknown;
    };
    version: Count;
    rev: string;
  };
}
/**
 * The body of an outcome: what a target did with a command.
 */
export interface OutcomeMessage {
  /**
   * The command's messageId.
   */
  id: string;
  component: string;
  state: "delivered" | "done" | "failed" | "expired" | "dead-lettered";
  attempt?: number;
  at: Timestamp;
  reason?: string;
  /**
   * How often the message of which this is told had been sent again from its dead letter. Of a dead letter by the coordinator only.
   */
  redriven?: number;
}
/**
 * RFC 9457 application/problem+json: every error answer.
 */
export interface Problem {
  type: string;
  title: string;
  status: number;
  /**
   * Stable; docs/errors.md lists all.
   */
  code: string;
  detail: string;
  errors?: {
    pointer: string;
    rule?: string;
    message: string;
    value?: unknown;
    component?: string;
  }[];
}
/**
 * POST /v1/config/layers/{layer}/candidate/promote
 */
export interface PromotionRequest {
  note?: string;
}
/**
 * POST /v1/dead-letters/redrive and /discard: those that have all of `match`, without it all; behind `cursor`, which the call before answered with, those that were there when the first call began.
 */
export interface RedriveRequest {
  match?: DeadLetterMatch;
  cursor?: string;
}
/**
 * PUT /v1/components/{id}
 */
export interface Registration {
  type: Id;
  subsystem?: Id;
  endpoints?: Endpoints;
  tags?: Tags;
  metadata?: Metadata;
  version?: string;
  ttlMs?: TtlMs;
  instance?: string;
  webhook?: Webhook;
}
/**
 * The body of a message on muster.renewals.
 */
export interface RenewalMessage {
  id: Id;
  incarnation?: Count;
  health?: Health;
}
/**
 * PUT /v1/components/{id}/lease
 */
export interface Renewal {
  incarnation?: Count;
  health?: Health;
}
/**
 * POST /v1/requests
 */
export interface RequestRequest {
  to: Target;
  name: MessageName;
  /**
   * Any JSON value.
   */
  body?: unknown;
  contentType?: MediaType;
  bodyBase64?: string;
  from?: Id;
  /**
   * Milliseconds to wait for the reply.
   */
  timeoutMs: number;
}
/**
 * POST /v1/config/layers/{layer}/rollback
 */
export interface RollbackRequest {
  version: Count;
  /**
   * Tells two versions of one number apart.
   */
  rev?: string;
  note?: string;
}
/**
 * `schema:<type>` in muster-config: the JSON Schema (2020-12) of a type's effective settings.
 */
export interface SchemaDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "schema";
  schemaVersion: 1;
  type: Id;
  schema: {
    [k: string]: unknown;
  };
  version: Count;
  changedBy: string;
  changedAt: Timestamp;
  site: Id;
}
/**
 * PUT /v1/config/schemas/{type}: the JSON Schema (2020-12) itself. What it must be is checked where it is compiled.
 */
export interface SchemaWrite {
  [k: string]: unknown;
}
/**
 * `secret:<name>` in muster-config: a value, encrypted with AES-256-GCM under MUSTER_SECRET_KEY. Its tombstone has no `sealed`.
 */
export interface SecretDocument {
  _id: string;
  _rev?: string;
  _deleted?: boolean;
  kind: "secret";
  schemaVersion: 1;
  name: Id;
  sealed?: Sealed;
  version: Count;
  changedBy: string;
  changedAt: Timestamp;
  site: Id;
}
/**
 * PUT /v1/config/secrets/{name}
 */
export interface SecretWrite {
  value: string;
}
/**
 * The body of a signal: a record changed, read it. Carries no state.
 */
export interface SignalMessage {
  kind: "config";
  id: Id;
  /**
   * For `config`: the etag of the effective settings.
   */
  revision: string;
}
/**
 * `site:<site>` in muster-registry: the heartbeat of a site, written by its leader.
 */
export interface SiteDocument {
  _id: string;
  _rev?: string;
  kind: "site";
  schemaVersion: 1;
  site: Id;
  /**
   * Counts up; readers judge whether it advances on their own clock.
   */
  beat: number;
  beatEveryMs: number;
  coordinatorUrl: string;
  /**
   * Raised by compare-and-set by each new leader.
   */
  epoch: number;
  /**
   * The instance that leads.
   */
  leader?: string;
  /**
   * What the leader decided last and may not have written to the records yet. Being in this document, under its revision, is what makes it valid.
   *
   * @maxItems 500
   */
  decided?: {
    id: Id;
    incarnation: Count;
    /**
     * Of the component's record that was judged.
     */
    rev?: string;
    to: "expired" | "removed";
  }[];
}
/**
 * POST /v1/sites: another site to replicate with. Credentials stand in the URLs; no answer and no log tells them.
 */
export interface SitePeer {
  name: Id;
  couchdbUrl: string;
  amqpUrl?: string;
}
