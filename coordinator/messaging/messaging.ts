/**
 * Messages of a site: composes the parts of this folder around one broker. The only file that other folders take from here
 * (and the types it gives back).
 */
import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import type { Registry as Metrics } from "prom-client";
import type { RenewalMessage } from "../../config-db/generated/types.ts";
import { queues } from "../../config-db/names.ts";
import type { Store } from "../../config-db/store.ts";
import { defaultRetryPolicy, type RetryPolicy } from "./after-failure.ts";
import { Broker } from "./broker.ts";
import { Commands } from "./commands.ts";
import { Consumer, publishDead } from "./consumer.ts";
import { type Contestant, contest } from "./contest.ts";
import { removedCode } from "./dead-letter.ts";
import { DeadLetters } from "./dead-letters.ts";
import { Events } from "./events.ts";
import { Federation } from "./federation.ts";
import type { LinkedSite } from "./federation-plan.ts";
import { Handover } from "./handover.ts";
import { Inboxes, type InboxesOptions } from "./inboxes.ts";
import { defaultManagementUrl, Management, vhostOf } from "./management.ts";
import type { Members } from "./members.ts";
import { type MessagingFigures, registerMetrics } from "./messaging-metrics.ts";
import { type Provisioned, Provisioning } from "./provisioning.ts";
import { Remote } from "./remote.ts";
import { QueueRemoval } from "./removal.ts";
import { type RenewalListener, Renewals } from "./renewals.ts";
import { Requester } from "./request.ts";
import { Sender } from "./send.ts";
import { Settling } from "./settling.ts";
import { type Signal, Signals } from "./signals.ts";
import { Tap } from "./tap.ts";
import { defaultQueueLimits, type QueueLimits } from "./topology.ts";
import { defaultTrackingLimits, Tracking, type TrackingLimits } from "./tracking.ts";
import { Webhooks } from "./webhooks.ts";

export interface MessagingOptions {
  /** The broker, with credentials. */
  amqpUrl: string;
  /** What components are told to connect to; `amqpUrl` if not given. */
  publicAmqpUrl?: string;
  /**
   * The broker's management API with credentials, for policies. Not given: the AMQP host's port 15672. `off`: there is none,
   * queues get their limits as arguments.
   */
  managementUrl?: string;
  site: string;
  /** Keeps tracked commands and dead letters. */
  store: Store;
  members: Members;
  /** Whether this coordinator leads its site: it alone calls webhooks. Not given: it does. */
  leads?: () => boolean;
  logger: Logger;
  limits?: Partial<QueueLimits & TrackingLimits & { deadLettersMax: number }>;
  /** How long a new commands queue stands before it takes commands, in milliseconds. */
  queueSettleMs?: number;
  retry?: Partial<RetryPolicy>;
  /** How long a leader waits for renewals by message that do not come through, in milliseconds. */
  unheardMaxMs?: number;
  /** How long the answer of a webhook is awaited, in milliseconds. */
  webhookTimeoutMs?: number;
  /** How long a dead letter is left to whoever is sending it again, in milliseconds. */
  redriveClaimMs?: number;
  /** After so long a redrive or discard of many takes no further dead letter, in milliseconds. */
  redriveManyMs?: number;
  metrics?: Metrics;
  wallClock?: () => Date;
}

/** Dead letters kept in the store; more wait in the broker. */
const deadLettersMax = 100_000;

export class Messaging {
  readonly #options: MessagingOptions;
  readonly #broker: Broker;
  readonly #removal: QueueRemoval;
  readonly #provisioning: Provisioning;
  readonly #renewals: Renewals;
  readonly #signals: Signals;
  readonly #contests = new Set<() => Promise<void>>();
  readonly sender: Sender;
  readonly requester: Requester;
  readonly events: Events;
  readonly inboxes: Inboxes;
  readonly settling: Settling;
  readonly #handover: Handover;
  readonly tracking: Tracking;
  readonly commands: Commands;
  readonly deadLetters: DeadLetters;
  readonly tap: Tap;
  readonly #webhooks: Webhooks;
  readonly #remote: Remote;
  readonly #federation: Federation | undefined;

  constructor(options: MessagingOptions) {
    const { amqpUrl, managementUrl, site, members, store, logger, wallClock = () => new Date() } = options;
    const { leads = () => true, limits = {} } = options;
    this.#options = options;
    this.#broker = new Broker({ url: amqpUrl, site, logger });
    this.#removal = new QueueRemoval(this.#broker);
    const management =
      managementUrl === "off"
        ? undefined
        : new Management(managementUrl ?? defaultManagementUrl(amqpUrl), vhostOf(amqpUrl));
    const broker = this.#broker;
    const token = randomBytes(4).toString("hex");
    this.#provisioning = new Provisioning({
      broker,
      management,
      site,
      limits: { ...defaultQueueLimits, ...limits },
      members: () => this.#ownMembers(),
      ...(options.queueSettleMs === undefined ? {} : { settleMs: options.queueSettleMs }),
      logger,
    });
    const provisioning = this.#provisioning;
    const ready = (exchange?: string) => provisioning.ready(exchange);
    const consumer = new Consumer({ broker, retry: { ...defaultRetryPolicy, ...options.retry }, logger, wallClock });
    this.#renewals = new Renewals({
      broker,
      ready,
      logger,
      ...(options.unheardMaxMs !== undefined && { unheardMaxMs: options.unheardMaxMs }),
    });
    this.#signals = new Signals({ broker, members, site, wallClock });
    this.sender = new Sender({ broker, provisioning, members, site, wallClock });
    this.requester = new Requester({ broker, sender: this.sender, site, token, logger, ready });
    this.events = new Events({ broker, wallClock, ready });
    const elsewhere: InboxesOptions["elsewhere"] = (...asked) => this.#handover.ask(...asked);
    this.inboxes = new Inboxes({
      ...{ token, broker, consumer, provisioning, logger, elsewhere },
      reached: () => this.#handover.reached,
      isAlone: () => this.#handover.others.size === 0,
      incarnationOf: (id) => members.get(id)?.incarnation,
    });
    const { inboxes, requester } = this;
    this.#handover = new Handover({ broker, inboxes, logger, ready });
    this.settling = new Settling({ broker, inboxes, requester, site, logger, wallClock, ready });
    const trackingLimits = { ...defaultTrackingLimits, ...limits };
    this.tracking = new Tracking({ store, broker, site, logger, limits: trackingLimits, wallClock, ready });
    const { sender, tracking } = this;
    this.commands = new Commands({ sender, tracking, site, wallClock });
    const max = limits.deadLettersMax ?? deadLettersMax;
    const { redriveClaimMs: claimMs, redriveManyMs: manyMs } = options;
    const times = { ...(claimMs !== undefined && { claimMs }), ...(manyMs !== undefined && { manyMs }) };
    this.deadLetters = new DeadLetters({ store, broker, sender, tracking, logger, wallClock, max, ready, ...times });
    this.tap = new Tap({
      broker,
      site,
      coordinators: () => [token, ...this.#handover.others],
      members: () => this.#ownMembers(),
      stands: (component) => provisioning.stands(component),
      logger,
    });
    this.#webhooks = new Webhooks({
      inboxes,
      members,
      site,
      leads,
      ...(options.webhookTimeoutMs !== undefined && { answerTimeoutMs: options.webhookTimeoutMs }),
      logger,
      wallClock,
    });
    if (options.metrics !== undefined) registerMetrics(options.metrics, () => this.#figures());
    this.#remote = new Remote({ broker, provisioning, members, site, logger, wallClock });
    this.#federation =
      management === undefined ? undefined : new Federation({ management, ready: () => this.ready(), logger });
  }

  /**
   * Begins to connect. A broker that is away does not stop it: what needs the broker answers 503 until it is there.
   * @throws MusterError `store-unavailable`: nothing has begun; call it again.
   */
  async start(): Promise<void> {
    await this.tracking.start();
    this.#broker.start();
    this.#provisioning.start();
    this.requester.start();
    this.settling.start();
    this.#handover.start();
    this.deadLetters.start();
    this.#webhooks.start();
    this.#remote.start();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#contests].map((leave) => leave()));
    await this.#federation?.close();
    await this.#remote.close();
    await this.#webhooks.close();
    await this.inboxes.close();
    await this.tap.close();
    await this.events.close();
    await this.deadLetters.close();
    await this.tracking.close();
    await this.#handover.close();
    await this.settling.close();
    await this.requester.close();
    await this.#renewals.close();
    await this.#provisioning.close();
    await this.#broker.close();
  }

  /**
   * Resolves when the exchanges and policies of the site stand.
   * @throws MusterError `broker-unavailable`
   */
  async ready(): Promise<void> {
    await this.#provisioning.ready();
  }

  /** Links the broker with those of these sites and no others, in the background. Without a management API it cannot. */
  linkWith(sites: LinkedSite[]): void {
    this.#federation?.setLinks(sites);
  }

  get state(): "connected" | "disconnected" {
    return this.#broker.state;
  }

  /** Why messages, or those of some kind, cannot be sent at the moment; undefined when all can. */
  get fault(): string | undefined {
    return this.#broker.fault ?? this.#provisioning.fault;
  }

  onStateChange(listener: (state: "connected" | "disconnected") => void): () => void {
    return this.#broker.onStateChange(listener);
  }

  /** Components whose queues wait to be declared. */
  get provisioningBacklog(): number {
    return this.#provisioning.backlog;
  }

  /** What a registration is told: where the component's messages are. */
  addresses(id: string): { inbox: string; amqp: { url: string; queues: Record<string, string> } } {
    const { amqpUrl, publicAmqpUrl = amqpUrl } = this.#options;
    return {
      inbox: `/v1/components/${id}/inbox`,
      amqp: {
        url: publicAmqpUrl,
        queues: {
          commands: queues.commands(id),
          requests: queues.requests(id),
          broadcasts: queues.broadcasts(id),
          replies: queues.replies(id),
        },
      },
    };
  }

  /** Has the component's queues declared in the background: call for every registration. */
  want(component: Provisioned): void {
    this.#provisioning.want(component);
  }

  /** Resolves when the component's queues stand. @throws MusterError `broker-unavailable`, `invalid-request`. */
  async provision(component: Provisioned): Promise<void> {
    await this.#provisioning.provision(component);
  }

  /**
   * Has every coordinator of the site give back what it holds of the component's inbox: it polls no more, consumes by itself
   * from now on, or lost an answer. In the background the queues and bindings of a component of this site are looked for; what
   * is missing is declared again.
   * @throws MusterError `broker-unavailable`: it is not known of all of them.
   */
  async release(id: string): Promise<void> {
    const { members, site, logger } = this.#options;
    const member = members.get(id);
    if (member?.site === site)
      this.#provisioning
        .mend(member)
        .catch((error: unknown) =>
          logger.debug({ component: id, error: String(error) }, "its queues were not looked for"),
        );
    await this.#handover.release(id);
  }

  /** The component's record is gone. Who removed it takes its queues away, and we those that we were declaring just then. */
  async dropped(component: Provisioned): Promise<void> {
    const dropped = this.#provisioning.drop(component);
    await this.tap.leave(component, () => this.#isLast(component));
    const isDeclared = await dropped;
    if (isDeclared && this.#options.members.get(component.id) === undefined) await this.remove(component);
  }

  /**
   * Takes a removed component's queues away; the commands and broadcasts in them become dead letters.
   * @throws MusterError `broker-unavailable`: call again until it resolves.
   */
  async remove(component: Provisioned): Promise<void> {
    const { id, type } = component;
    await this.#provisioning.remove(component, async () => {
      await this.inboxes.drop(id);
      await this.#removal.remove(component, this.#isLast(component), async (queue, message) => {
        if (queue === queues.replies(id) || queue === queues.requests(id)) return;
        const reason =
          queue === queues.any(type)
            ? `the last component of type "${type}" was removed`
            : `the component "${id}" was removed before it handled this`;
        await publishDead(this.#broker, message, { component: id, reason, code: removedCode });
      });
    });
  }

  /** Tells components that a record of theirs changed (signals.ts). */
  async signal(ids: string[], signal: Signal): Promise<void> {
    await this.#signals.send(ids, signal);
  }

  /** Gives every renewal that comes by AMQP while listening: the site's leader alone does. @returns what ends it. */
  onRenewal(listener: RenewalListener): () => Promise<void> {
    return this.#renewals.listen(listener);
  }

  /** Resolves when all renewals by message that were sent before have been heard (renewals.ts). */
  renewalsHeard(signal: AbortSignal): Promise<void> {
    return this.#renewals.heard(signal);
  }

  /** Passes a renewal on to the coordinator that leads. */
  async publishRenewal(renewal: RenewalMessage): Promise<void> {
    await this.#renewals.publish(renewal);
  }

  /** Enters a contest for a role that one process at a time has (contest.ts). @returns what leaves it. */
  contest(queue: string, contestant: Contestant): () => Promise<void> {
    const leave = contest(this.#broker, queue, contestant);
    const leaveOnce = async () => {
      this.#contests.delete(leaveOnce);
      await leave();
    };
    this.#contests.add(leaveOnce);
    return leaveOnce;
  }

  #figures(): MessagingFigures {
    const { unknown, malformed } = this.tracking.strays;
    return {
      connected: this.state === "connected",
      unconfirmed: this.#broker.inFlight,
      provisioningBacklog: this.#provisioning.backlog,
      trackedCommands: this.tracking.kept,
      deadLetters: this.deadLetters.count,
      strayOutcomes: unknown + malformed,
      malformedRenewals: this.#renewals.malformed,
    };
  }

  /** Whether no other component of this site has its type. */
  #isLast({ id, type }: Provisioned): boolean {
    for (const member of this.#ownMembers()) if (member.type === type && member.id !== id) return false;
    return true;
  }

  *#ownMembers(): Iterable<Provisioned> {
    const { members, site } = this.#options;
    for (const member of members.all()) if (member.site === site) yield member;
  }
}
