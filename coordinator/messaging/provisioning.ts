/**
 * Makes the broker match the topology, and keeps it so. Declaring a component's queues takes 20 ms, registrations come by
 * the thousand: so they are declared in the background, those that somebody waits for first, and what the broker has
 * already (asked once a connection, of its management API) is not declared again.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { ConfirmChannel } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { exchanges, queues, reservedIdPattern, typeSignalKey } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";
import type { Binding, Management } from "./management.ts";
import {
  componentPlan,
  type Plan,
  type PolicyPlan,
  policyAsArguments,
  policyPlans,
  type QueueLimits,
  sitePlan,
  versionMarker,
} from "./topology.ts";

export interface Provisioned {
  id: string;
  type: string;
}

export interface ProvisioningOptions {
  broker: Broker;
  site: string;
  limits: QueueLimits;
  /** Undefined: there is none, limits are declared as arguments (docs/adr/0303). */
  management: Management | undefined;
  /** The components of this site that have queues, now. */
  members: () => Iterable<Provisioned>;
  logger: Logger;
  /** How long to wait for the management API at the first start before going on without it. */
  managementGraceMs?: number;
}

interface Job extends Provisioned {
  urgent: boolean;
  done: boolean;
  finished: Promise<void>;
  finish: () => void;
}

/** Two declare faster than one, for each waits for the broker's disk; more only take it from the messages. */
const workers = 2;
const retryMs = { policies: 1_000, lasting: 30_000, job: 1_000 };
/** How long a sender waits for the queues of its target. */
const provisionTimeoutMs = 10_000;
/** Bindings of more types than these are not asked for one by one; the queues are then declared again instead. */
const typesAskedMax = 500;

export class Provisioning {
  readonly #options: ProvisioningOptions;
  readonly #abort = new AbortController();
  readonly #channels: ReturnType<Broker["channel"]>[] = [];
  /** Type by id, of the components whose queues stand. */
  readonly #standing = new Map<string, string>();
  readonly #typeExchanges = new Set<string>();
  readonly #jobs = new Map<string, Job>();
  readonly #urgent: Job[] = [];
  readonly #background: Job[] = [];
  /** Queues that stand there with other arguments than ours: taken as they are. */
  readonly #foreign = new Set<string>();
  readonly #running: Promise<void>[] = [];
  readonly #policies: PolicyPlan[];
  #useArguments = false;
  #ready: Deferred;
  readonly #asleep = new Set<() => void>();

  constructor(options: ProvisioningOptions) {
    this.#options = options;
    this.#policies = policyPlans(options.limits);
    this.#useArguments = options.management === undefined;
    this.#ready = deferred();
  }

  start(): void {
    const prepared = this.#options.broker.channel({
      name: "prepare",
      declares: true,
      setup: (channel) => this.#prepare(channel),
      onLost: () => {
        if (this.#ready.settled) this.#ready = deferred();
      },
    });
    this.#channels.push(prepared);
    for (let n = 0; n < workers; n += 1) {
      const opened = this.#options.broker.channel({ name: `declare ${n}`, declares: true });
      this.#channels.push(opened);
      this.#running.push(this.#work(opened.channel));
    }
    if (this.#options.management !== undefined) this.#running.push(this.#keepPolicies(this.#options.management));
  }

  async close(): Promise<void> {
    this.#abort.abort();
    this.#wake();
    await Promise.all(this.#running);
    await Promise.all(this.#channels.map((channel) => channel.close()));
  }

  /** Components whose queues wait to be declared. */
  get backlog(): number {
    return this.#jobs.size;
  }

  /** True when all of the component's queues stand, as far as is known. */
  stands({ id, type }: Provisioned): boolean {
    return this.#standing.get(id) === type;
  }

  /**
   * Resolves when the exchanges and the site's own queues stand.
   * @throws MusterError `broker-unavailable`
   */
  async ready(): Promise<void> {
    await withTimeout(this.#ready.promise);
  }

  /** Has the component's queues declared in the background. */
  want(component: Provisioned): void {
    if (!this.stands(component)) this.#job(component, false);
  }

  /**
   * Resolves when the component's queues stand; they come before all that nobody waits for.
   * @throws MusterError `invalid-request` for an id whose queues would be others'; `broker-unavailable`.
   */
  async provision(component: Provisioned): Promise<void> {
    if (reservedIdPattern.test(component.id))
      throw new MusterError(
        "invalid-request",
        `"${component.id}" cannot be a component's id: ids must not be, or begin with, any., site., leader. or outcomes.`,
      );
    if (this.stands(component)) return;
    await withTimeout(this.#job(component, true).finished);
  }

  /** Has the queues declared again: a message came back although they should stand. */
  async repair(component: Provisioned): Promise<void> {
    this.#standing.delete(component.id);
    await this.provision(component);
  }

  /** The exchange of a type must stand before anything is published to it: a missing one costs the whole channel. */
  async typeExchange(type: string): Promise<string> {
    const name = exchanges.type(type);
    if (!this.#typeExchanges.has(name)) {
      await this.ready();
      const channel = await this.#channels[0]?.channel.opened(AbortSignal.timeout(provisionTimeoutMs));
      await channel?.assertExchange(name, "fanout", { durable: true });
      this.#typeExchanges.add(name);
    }
    return name;
  }

  /**
   * Deletes the component's queues after `rescue` was given every command and broadcast that they hold; the type's shared
   * queue too when no member of the type is left. Unbound first, so that a sender learns at once.
   */
  async remove(
    { id, type }: Provisioned,
    rescue: (queue: string, message: import("amqplib").ConsumeMessage) => Promise<void>,
  ): Promise<void> {
    this.#standing.delete(id);
    const job = this.#jobs.get(id);
    if (job !== undefined) this.#end(job);
    const lastOfType = ![...this.#options.members()].some((member) => member.type === type && member.id !== id);
    const plan = componentPlan({ id, type });
    const shared = plan.bindings.filter(({ exchange }) => exchange === exchanges.any).map(({ queue }) => queue);
    const doomed = plan.queues.map(({ name }) => name).filter((name) => lastOfType || !shared.includes(name));
    const opened = this.#options.broker.channel({ name: `remove ${id}`, declares: true });
    try {
      const channel = await opened.channel.opened(AbortSignal.timeout(provisionTimeoutMs));
      for (const { queue, exchange, key } of plan.bindings)
        if (doomed.includes(queue)) await channel.unbindQueue(queue, exchange, key);
      for (const queue of doomed) {
        await drain(channel, queue, (message) => rescue(queue, message));
        await channel.deleteQueue(queue);
      }
    } finally {
      await opened.close();
    }
  }

  // --- once a connection ---------------------------------------------------------------------------------------

  async #prepare(channel: ConfirmChannel): Promise<void> {
    await this.#setPolicies();
    this.#typeExchanges.clear();
    await this.#declare(channel, sitePlan(this.#options.site));
    await this.#findStanding();
    this.#ready.resolve();
    for (const member of this.#options.members()) this.want(member);
  }

  /** At the first start the management API may come up a little after the broker. */
  async #setPolicies(): Promise<void> {
    const { management, logger, managementGraceMs = 10_000 } = this.#options;
    if (management === undefined || this.#useArguments) return;
    for (let waitedMs = 0; ; waitedMs += retryMs.policies) {
      try {
        const changed = await management.applyPolicies(this.#policies);
        if (changed.length > 0) logger.info({ policies: changed }, "set policies of the broker");
        return;
      } catch (error) {
        if (waitedMs >= managementGraceMs) {
          this.#useArguments = true;
          logger.warn(
            { management: management.url, error: String(error) },
            "the broker's management API cannot be had: queues get their limits as arguments, which stay until a queue is " +
              "deleted; set MUSTER_AMQP_MANAGEMENT_URL to a user with the tag policymaker",
          );
          return;
        }
        await delay(retryMs.policies, undefined, { signal: this.#abort.signal });
      }
    }
  }

  /** Policies that somebody changes or deletes come back. */
  async #keepPolicies(management: Management): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      await delay(retryMs.lasting, undefined, { signal }).catch(() => undefined);
      if (signal.aborted || this.#options.broker.state !== "connected") continue;
      try {
        const changed = await management.applyPolicies(this.#policies);
        if (changed.length > 0) this.#options.logger.warn({ policies: changed }, "repaired policies of the broker");
        this.#useArguments = false;
      } catch {
        // Told once at the start; the next round asks again.
      }
    }
  }

  /** Asks the broker which components have all their bindings; without an answer all are declared again. */
  async #findStanding(): Promise<void> {
    const { management, members, logger } = this.#options;
    this.#standing.clear();
    if (management === undefined || this.#useArguments) return;
    const components = [...members()];
    const types = new Set(components.map(({ type }) => type));
    if (types.size > typesAskedMax) return;
    try {
      if (!(await management.exchangeExists(versionMarker))) return;
      const sources = [
        ...[exchanges.unicast, exchanges.requests, exchanges.signals, exchanges.any, exchanges.all, exchanges.reply],
        ...[...types].map(exchanges.type),
      ];
      const found = new Set<string>();
      for (const source of sources)
        for (const binding of await management.bindingsFrom(source)) found.add(wordOf(binding));
      for (const component of components)
        if (componentPlan(component).bindings.every((binding) => found.has(wordOf(binding))))
          this.#standing.set(component.id, component.type);
    } catch (error) {
      logger.warn({ error: String(error) }, "the broker's bindings cannot be listed: all queues are declared again");
    }
  }

  // --- in the background ---------------------------------------------------------------------------------------

  #job({ id, type }: Provisioned, urgent: boolean): Job {
    const waiting = this.#jobs.get(id);
    if (waiting !== undefined && waiting.type === type) {
      if (urgent && !waiting.urgent) {
        waiting.urgent = true;
        this.#urgent.push(waiting);
        this.#wake();
      }
      return waiting;
    }
    if (waiting !== undefined) this.#end(waiting);
    const { promise, resolve } = deferred();
    const job: Job = { id, type, urgent, done: false, finished: promise, finish: resolve };
    this.#jobs.set(id, job);
    (urgent ? this.#urgent : this.#background).push(job);
    this.#wake();
    return job;
  }

  #end(job: Job): void {
    job.done = true;
    if (this.#jobs.get(job.id) === job) this.#jobs.delete(job.id);
    job.finish();
  }

  async #work(lasting: ReturnType<Broker["channel"]>["channel"]): Promise<void> {
    const { signal } = this.#abort;
    const { logger } = this.#options;
    while (!signal.aborted) {
      const job = this.#urgent.shift() ?? this.#background.shift();
      if (job === undefined) {
        await this.#markVersion(lasting);
        await this.#idle();
        continue;
      }
      if (job.done) continue;
      try {
        await abortable(this.#ready.promise, signal);
        const channel = await lasting.opened(signal);
        await this.#declare(channel, componentPlan(job));
        const before = this.#standing.get(job.id);
        if (before !== undefined && before !== job.type) await leaveType(channel, job.id, before);
        // A removal that came meanwhile has ended the job.
        if (!job.done) this.#standing.set(job.id, job.type);
        this.#end(job);
      } catch (error) {
        if (signal.aborted) return;
        logger.debug({ component: job.id, error: String(error) }, "queues could not be declared, trying again");
        (job.urgent ? this.#urgent : this.#background).push(job);
        await delay(retryMs.job, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  async #idle(): Promise<void> {
    if (this.#urgent.length > 0 || this.#background.length > 0 || this.#abort.signal.aborted) return;
    await new Promise<void>((resolve) => this.#asleep.add(resolve));
  }

  #wake(): void {
    for (const resolve of this.#asleep) resolve();
    this.#asleep.clear();
  }

  /** All was declared by this version: a later start may ask instead of declaring. */
  async #markVersion(lasting: ReturnType<Broker["channel"]>["channel"]): Promise<void> {
    if (this.#jobs.size > 0 || lasting.current === undefined) return;
    await lasting.current.assertExchange(versionMarker, "fanout", { durable: true }).catch(() => undefined);
  }

  async #declare(channel: ConfirmChannel, plan: Plan): Promise<void> {
    for (const { name, type } of plan.exchanges) {
      if (this.#typeExchanges.has(name)) continue;
      await channel.assertExchange(name, type, { durable: true });
      if (name.startsWith(exchanges.type(""))) this.#typeExchanges.add(name);
    }
    for (const { name, type, singleActiveConsumer } of plan.queues) {
      if (this.#foreign.has(name)) {
        await channel.checkQueue(name);
        continue;
      }
      const own = { "x-queue-type": type, ...(singleActiveConsumer ? { "x-single-active-consumer": true } : {}) };
      const limits = this.#useArguments ? policyAsArguments(name, this.#policies) : {};
      try {
        await channel.assertQueue(name, { durable: true, arguments: { ...own, ...limits } });
      } catch (error) {
        if ((error as { code?: number }).code === 406) {
          this.#foreign.add(name);
          this.#options.logger.warn(
            { queue: name, error: String(error) },
            "a queue has other arguments; it is taken as it is",
          );
        }
        throw error;
      }
    }
    for (const { queue, exchange, key } of plan.bindings) await channel.bindQueue(queue, exchange, key);
  }
}

/** A component that changed its type hears no more of what is for the old one. */
async function leaveType(channel: ConfirmChannel, id: string, type: string): Promise<void> {
  await channel.unbindQueue(queues.broadcasts(id), exchanges.type(type), "");
  await channel.unbindQueue(queues.broadcasts(id), exchanges.signals, typeSignalKey(type));
}

/** Gives `take` every message of a queue, acking each that it took. Ends when the queue is empty. */
async function drain(
  channel: ConfirmChannel,
  queue: string,
  take: (message: import("amqplib").ConsumeMessage) => Promise<void>,
): Promise<void> {
  const taking = new Set<Promise<void>>();
  const tag = await consume(channel, queue, { prefetch: 200 }, (message) => {
    const taken = take(message).then(() => channel.ack(message));
    taking.add(taken);
    taken.finally(() => taking.delete(taken)).catch(() => undefined);
  });
  for (;;) {
    const { messageCount } = await channel.checkQueue(queue);
    await Promise.all(taking);
    if (messageCount === 0 && taking.size === 0) break;
  }
  await channel.cancel(tag);
  await Promise.all(taking);
}

function wordOf({ exchange, key, queue }: Binding): string {
  return `${exchange} ${key} ${queue}`;
}

interface Deferred {
  readonly promise: Promise<void>;
  settled: boolean;
  resolve(): void;
}

function deferred(): Deferred {
  let give = () => {};
  const promise = new Promise<void>((resolve) => {
    give = resolve;
  });
  const made: Deferred = {
    promise,
    settled: false,
    resolve: () => {
      made.settled = true;
      give();
    },
  };
  return made;
}

async function abortable(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const refuse = () => reject(signal.reason);
    signal.addEventListener("abort", refuse, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", refuse));
  });
}

async function withTimeout(promise: Promise<void>): Promise<void> {
  const timeout = AbortSignal.timeout(provisionTimeoutMs);
  try {
    await abortable(promise, timeout);
  } catch (error) {
    throw new MusterError("broker-unavailable", "the broker could not provide the target's queues in time; try again", {
      retryAfterMs: 2_000,
      cause: error,
    });
  }
}
