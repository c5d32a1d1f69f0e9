/**
 * Makes the broker match the topology, and keeps it so. Declaring a component's queues takes 20 ms, registrations come by
 * the thousand: so they are declared in the background, those that somebody waits for first, and what the broker has
 * already (asked once a connection, of its management API) is not declared again.
 *
 * It is done in rounds. RabbitMQ writes down which quorum queues there are when none was made for half a second to a second;
 * killed before, it has forgotten the queue and all that it confirmed. So each round declares what is wanted as it comes,
 * waits until nothing more was for a while, and only then binds for commands what it declared (docs/adr/0308).
 */
import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import type { ConfirmChannel } from "amqplib";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { exchanges, queues, reservedIdPattern, typeSignalKey } from "../../config-db/names.ts";
import { timeLimit } from "../../config-db/time-limit.ts";
import type { Broker } from "./broker.ts";
import { DeclarationError, Declarer } from "./declarer.ts";
import { closeQuietly } from "./lasting-channel.ts";
import type { Entity } from "./link.ts";
import type { Management } from "./management.ts";
import { PolicyKeeper } from "./policy-keeper.ts";
import { findStanding, type Standing } from "./standing.ts";
import { componentPlan, type Plan, policyPlans, type QueueLimits, sitePlan, versionMarker } from "./topology.ts";

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
  /** How long no queue is declared before new ones take commands. 0: they do at once, and can be lost in their first second. */
  settleMs?: number;
  /** How long to wait for the management API at the first start before going on without it. */
  managementGraceMs?: number;
}

interface Job extends Provisioned {
  urgent: boolean;
  done: boolean;
  /** All queues are there, and bound for all but commands. */
  declared: Deferred;
  finished: Deferred;
  /** The declaration at the broker, once it has begun. */
  underWay?: Promise<void>;
}

interface Declared {
  job: Job;
  /** One that has ended since tells that the broker may have forgotten what was declared over it. */
  over: Connection;
}

/** A component whose queues the broker refuses. */
interface Refused {
  type: string;
  error: DeclarationError;
  atMs: number;
}

type Connection = ConfirmChannel["connection"];

type Lasting = ReturnType<Broker["channel"]>["channel"];

/** Twice RabbitMQ's half second, for it only looks then whether anything changed since, and what a late timer takes. */
export const settleDefaultMs = 1_100;
/** Two declare faster than one, for each waits for the broker's disk; more only take it from the messages. */
const declarers = 2;
/** How long a round takes more in: who comes next waits until it has settled. */
const roundMs = 2_000;
const retryMs = 1_000;
/** Of the components whose queues are refused so many are tried again each time: each costs a channel. */
const refusedAtOnce = 20;
/** A removal takes some 200 ms. Two who remove one component hinder each other. */
const takeAwayMs = 2_000;
/** How long a binding of the site that somebody deleted is missing, at most. */
const keepEveryMs = 10_000;
/** Each time the bindings of so many components are made again: 400, which take the broker 0.1 s of CPU. */
const keptAtOnce = 50;
/** How long a sender waits for the queues of its target. */
const provisionTimeoutMs = 10_000;

export class Provisioning {
  readonly #options: ProvisioningOptions;
  readonly #abort = new AbortController();
  readonly #channels: ReturnType<Broker["channel"]>[] = [];
  /** Type by id, of the components whose queues stand. */
  readonly #standing = new Map<string, string>();
  /** Types that a component may be bound to beside the standing one, by id: declared for it when it changed once more. */
  readonly #abandoned = new Map<string, Set<string>>();
  readonly #declarer: Declarer;
  readonly #jobs = new Map<string, Job>();
  /** By id; who was tried again last is the last. */
  readonly #refused = new Map<string, Refused>();
  /** By `wordOf`: exchanges and queues of the site. What is for them cannot be sent; all else can. */
  readonly #refusedOfSite = new Map<string, DeclarationError>();
  /** Components whose bindings are still to be made again, until all have had their turn. */
  #unkept: string[] = [];
  /** Removals of components' queues that are under way. */
  readonly #removals = new Map<string, Promise<void>>();
  readonly #urgent: Job[] = [];
  readonly #background: Job[] = [];
  readonly #running: Promise<void>[] = [];
  readonly #policies: PolicyKeeper;
  readonly #settleMs: number;
  #ready: Deferred;
  readonly #asleep = new Set<() => void>();
  #heard: () => void = () => undefined;

  constructor(options: ProvisioningOptions) {
    this.#options = options;
    // Whatever waits for a channel of its own listens to it: that is no leak.
    setMaxListeners(0, this.#abort.signal);
    const { broker, management, logger, managementGraceMs = 10_000 } = options;
    const policies = policyPlans(options.limits);
    this.#policies = new PolicyKeeper({ broker, management, policies, logger, graceMs: managementGraceMs });
    this.#declarer = new Declarer({ policies, useArguments: () => this.#policies.asArguments, logger });
    this.#settleMs = options.settleMs ?? settleDefaultMs;
    this.#ready = deferred();
  }

  start(): void {
    const prepared = this.#options.broker.channel({
      name: "prepare",
      setup: (channel) => this.#prepare(channel),
      onLost: () => {
        if (this.#ready.settled) this.#ready = deferred();
      },
    });
    this.#channels.push(prepared);
    this.#heard = this.#options.broker.onMissing((what) => this.#restore(what));
    const declaring: Lasting[] = [];
    for (let n = 0; n < declarers; n += 1) {
      const opened = this.#options.broker.channel({ name: `declare ${n}` });
      this.#channels.push(opened);
      declaring.push(opened.channel);
    }
    this.#running.push(this.#work(declaring));
    this.#running.push(this.#policies.keep(this.#abort.signal));
    this.#running.push(this.#keep());
  }

  async close(): Promise<void> {
    this.#abort.abort();
    this.#heard();
    this.#wake();
    await Promise.all(this.#running);
    await Promise.all(this.#channels.map((channel) => channel.close()));
  }

  /** Components whose queues wait to be declared. */
  get backlog(): number {
    return new Set([...this.#jobs.keys(), ...this.#refused.keys()]).size;
  }

  /** True when all of the component's queues stand, as far as is known, and are not about to follow another type. */
  stands({ id, type }: Provisioned): boolean {
    return this.#standing.get(id) === type && (this.#jobs.get(id)?.type ?? type) === type;
  }

  /** What the broker refuses of the site's exchanges and queues, and why; undefined when all stand. */
  get fault(): string | undefined {
    return this.#refusedOfSite.size === 0
      ? undefined
      : [...this.#refusedOfSite.values()].map(({ message }) => message).join("; ");
  }

  /**
   * Resolves when the exchanges and the site's own queues stand, but for those that the broker refuses.
   * @throws MusterError `broker-unavailable`: not in time, or a DeclarationError for `exchange`.
   */
  async ready(exchange?: string): Promise<void> {
    if (!this.#ready.settled) await withTimeout(this.#ready.promise);
    if (exchange === undefined || this.#refusedOfSite.size === 0) return;
    const refusal = this.#refusedOfSite.get(wordOf({ kind: "exchange", name: exchange }));
    if (refusal !== undefined) throw refusal;
  }

  /** Has the component's queues declared in the background. */
  want(component: Provisioned): void {
    // Who is registered again by the end of its removal is wanted then.
    if (this.#removals.has(component.id)) return;
    // Tried again with all that are refused.
    if (this.#refusalOf(component) !== undefined) return;
    if (!this.stands(component) && !reservedIdPattern.test(component.id)) this.#job(component, false);
  }

  /**
   * Resolves when the component's queues stand; they come before all that nobody waits for.
   * @throws MusterError `invalid-request` for an id whose queues would be others'; `broker-unavailable`: not in time, or a
   *   DeclarationError.
   */
  async provision(component: Provisioned): Promise<void> {
    await this.#until(component, "finished");
  }

  /** As `provision`, but only until the queues can be read and take what is not a command. @throws as `provision` */
  async declared(component: Provisioned): Promise<void> {
    await this.#until(component, "declared");
  }

  async #until(component: Provisioned, step: "declared" | "finished"): Promise<void> {
    if (reservedIdPattern.test(component.id))
      throw new MusterError(
        "invalid-request",
        `"${component.id}" cannot be a component's id: ids must not be, or begin with, any., site., leader. or outcomes.`,
      );
    const removal = this.#removals.get(component.id);
    if (removal !== undefined) await withTimeout(removal);
    if (this.stands(component)) return;
    const refusal = this.#refusalOf(component);
    if (refusal !== undefined && performance.now() < refusal.atMs + retryMs) throw refusal.error;
    await withTimeout(this.#job(component, true)[step].promise);
  }

  /** Has the queues declared again: a message came back although they should stand. @throws as `provision` */
  async repair(component: Provisioned, forCommands: boolean): Promise<void> {
    this.#standing.delete(component.id);
    await this.#until(component, forCommands ? "finished" : "declared");
  }

  /**
   * Makes the bindings again through which the component's messages come and its dead letters go: somebody may have deleted
   * one. A queue that is not there is told by that, and declared again in the background.
   * @throws what the broker says
   */
  async mend(component: Provisioned): Promise<void> {
    // While they are being declared nothing is missing.
    if (!this.stands(component)) return;
    await this.#onOwnChannel(`mend ${component.id}`, async (channel) => {
      for (const plan of [sitePlan(this.#options.site), componentPlan(component)])
        await this.#declarer.rebind(channel, this.#without(plan));
    });
  }

  /**
   * The exchange of a type must stand before anything is published to it: a missing one costs the whole channel.
   * @throws MusterError `broker-unavailable`: not in time, or a DeclarationError.
   */
  async typeExchange(type: string): Promise<void> {
    await this.ready();
    if (this.#declarer.hasTypeExchange(type)) return;
    const plan = { exchanges: componentPlan({ id: "", type }).exchanges, queues: [], bindings: [] };
    await withTimeout(
      this.#onOwnChannel(`type ${type}`, (channel) => this.#declarer.declare(async () => channel, plan)),
    );
  }

  /** What the broker refuses costs the channel, and may be refused for good: then only this is lost. */
  async #onOwnChannel(name: string, work: (channel: ConfirmChannel) => Promise<void>): Promise<void> {
    const opened = this.#options.broker.channel({ name });
    const limit = timeLimit(provisionTimeoutMs, "the broker gave no channel in time", this.#abort.signal);
    try {
      await work(await opened.channel.opened(limit.signal));
    } finally {
      limit.release();
      await opened.close();
    }
  }

  /**
   * Runs `takeAway` on the queues of a removed component and declares them no more; for one that registers meanwhile, only
   * when that has ended: it must not lose the queues that it was just given. @throws what `takeAway` throws
   */
  async remove({ id }: Provisioned, takeAway: () => Promise<void>): Promise<void> {
    const former = this.#removals.get(id);
    if (former !== undefined) return former;
    this.#forget(id);
    const removal = takeAway().finally(() => {
      this.#removals.delete(id);
      this.#forget(id);
      const member = [...this.#options.members()].find((known) => known.id === id);
      if (member === undefined) this.#abandoned.delete(id);
      else this.want(member);
    });
    this.#removals.set(id, removal);
    await removal;
  }

  /**
   * Declares the component's queues no more: its record is gone, perhaps by another coordinator. Resolves when that one has
   * had the time to take them away.
   * @returns whether they were being declared here just then, so that some may stand again.
   */
  async drop({ id }: Provisioned): Promise<boolean> {
    const job = this.#jobs.get(id);
    this.#forget(id);
    if (job === undefined) return false;
    const { signal } = this.#abort;
    await delay(takeAwayMs, undefined, { signal }).catch(() => undefined);
    await job.underWay?.catch(() => undefined);
    return !signal.aborted;
  }

  #forget(id: string): void {
    this.#standing.delete(id);
    this.#refused.delete(id);
    const job = this.#jobs.get(id);
    if (job !== undefined) this.#abandon(job);
  }

  /** Somebody deleted what stood: a component's queues are declared again, for all else everything is. */
  #restore({ kind, name }: Entity): void {
    const own = sitePlan(this.#options.site);
    const all = kind === "exchange" ? own.exchanges : own.queues;
    if (all.some((planned) => planned.name === name) || (kind === "exchange" && name.startsWith(exchanges.type("")))) {
      this.#refusedOfSite.delete(wordOf({ kind, name }));
      this.#options.logger.warn({ [kind]: name }, "it was deleted from the broker: all that is not there is declared");
      this.#prepareAgain();
      return;
    }
    for (const [id, type] of [...this.#standing]) {
      if (!componentPlan({ id, type }).queues.some((queue) => queue.name === name)) continue;
      this.#standing.delete(id);
      this.want({ id, type });
    }
  }

  // --- once a connection ---------------------------------------------------------------------------------------

  async #prepare(channel: ConfirmChannel): Promise<void> {
    await this.#policies.set(this.#abort.signal);
    this.#declarer.forget();
    await this.#declareSite(channel);
    const { standing, former } = await this.#askStanding();
    // What this coordinator itself had bound is known without a management API.
    const types = new Map([...this.#options.members()].map(({ id, type }) => [id, type]));
    for (const [id, type] of this.#standing) if (types.has(id) && types.get(id) !== type) former.push({ id, type });
    this.#standing.clear();
    for (const { id, type } of former) this.#mustLeave(id, type);
    for (const { id, type } of standing) if (!this.#abandoned.has(id)) this.#standing.set(id, type);
    this.#ready.resolve();
    for (const member of this.#options.members()) this.want(member);
  }

  #prepareAgain(): void {
    const prepared = this.#channels[0]?.channel.current;
    // Without one it is being prepared.
    if (prepared !== undefined) void closeQuietly(prepared);
  }

  /** @throws a DeclarationError, which costs the channel: on the next one all but that is declared. */
  async #declareSite(channel: ConfirmChannel): Promise<void> {
    try {
      await this.#declarer.declare(async () => channel, this.#without(sitePlan(this.#options.site)));
    } catch (error) {
      if (error instanceof DeclarationError) {
        this.#options.logger.error({ error: error.message }, "a part of the site's topology cannot be declared");
        this.#refusedOfSite.set(wordOf(error.what), error);
      }
      throw error;
    }
  }

  /** Less what the broker refuses. */
  #without({ exchanges, queues, bindings }: Plan): Plan {
    const isAllowed = (kind: Entity["kind"], name: string) => !this.#refusedOfSite.has(wordOf({ kind, name }));
    return {
      exchanges: exchanges.filter(({ name }) => isAllowed("exchange", name)),
      queues: queues.filter(({ name }) => isAllowed("queue", name)),
      bindings: bindings.filter(({ exchange, queue }) => isAllowed("exchange", exchange) && isAllowed("queue", queue)),
    };
  }

  /**
   * Somebody may delete a binding, or declare anew what they deleted: nobody would notice. The broker itself moves messages to
   * the dead letters, and a reply that finds no queue is dropped.
   */
  async #keep(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      await delay(keepEveryMs, undefined, { signal }).catch(() => undefined);
      // Else it is being prepared.
      if (signal.aborted || !this.#ready.settled) continue;
      this.#retryRefused();
      await this.#retryRefusedOfSite();
      // What is refused costs the channel: the rest is gone over without it.
      for (let known = -1; known < this.#refusedOfSite.size; ) {
        known = this.#refusedOfSite.size;
        await this.#onOwnChannel("keep", (channel) => this.#goOver(channel)).catch((error) =>
          this.#options.logger.debug({ error: String(error) }, "not all bindings could be made again"),
        );
      }
    }
  }

  async #goOver(channel: ConfirmChannel): Promise<void> {
    // An exchange is declared anew only with all that was bound to it: what is not there is told by this (#restore).
    const site = this.#without(sitePlan(this.#options.site));
    for (const { name } of site.exchanges) await channel.checkExchange(name);
    await this.#declareSite(channel);
    if (this.#unkept.length === 0) this.#unkept = [...this.#standing.keys()];
    for (let kept = 0; kept < keptAtOnce && this.#unkept.length > 0; kept += 1) {
      const id = this.#unkept.shift() ?? "";
      const type = this.#standing.get(id);
      if (type !== undefined) await this.#declarer.rebind(channel, this.#without(componentPlan({ id, type })));
    }
  }

  async #retryRefusedOfSite(): Promise<void> {
    const site = sitePlan(this.#options.site);
    for (const [word, { what }] of [...this.#refusedOfSite]) {
      const plan: Plan = {
        exchanges: site.exchanges.filter(({ name }) => wordOf({ kind: "exchange", name }) === word),
        queues: site.queues.filter(({ name }) => wordOf({ kind: "queue", name }) === word),
        bindings: [],
      };
      try {
        await this.#onOwnChannel(`look at ${what.name}`, (channel) =>
          this.#declarer.declare(async () => channel, plan),
        );
        this.#refusedOfSite.delete(word);
        this.#options.logger.info({ [what.kind]: what.name, recovered: true }, "it can be declared again");
        this.#prepareAgain();
      } catch (error) {
        if (error instanceof DeclarationError) this.#refusedOfSite.set(word, error);
      }
    }
  }

  async #askStanding(): Promise<Standing> {
    const { management, members, logger } = this.#options;
    if (management === undefined || this.#policies.asArguments) return { standing: [], former: [] };
    try {
      return await findStanding(management, [...members()]);
    } catch (error) {
      logger.warn({ error: String(error) }, "the broker's bindings cannot be listed: all queues are declared again");
      return { standing: [], former: [] };
    }
  }

  // --- in the background ---------------------------------------------------------------------------------------

  #job({ id, type }: Provisioned, urgent: boolean): Job {
    const waiting = this.#jobs.get(id);
    if (waiting !== undefined && waiting.type === type) {
      if (urgent && !waiting.urgent) {
        waiting.urgent = true;
        // Declared already it settles: one that is looked at again would only make all others wait longer.
        if (waiting.declared.settled) return waiting;
        this.#urgent.push(waiting);
        this.#wake();
      }
      return waiting;
    }
    if (waiting !== undefined) this.#abandon(waiting);
    if (this.#refusalOf({ id, type }) === undefined) this.#refused.delete(id);
    const job: Job = { id, type, urgent, done: false, declared: deferred(), finished: deferred() };
    this.#jobs.set(id, job);
    (urgent ? this.#urgent : this.#background).push(job);
    this.#wake();
    return job;
  }

  /** Ends it before it is done; what it has bound, or is binding, is left when the component is declared again. */
  #abandon(job: Job): void {
    const { id, type, underWay } = job;
    if (underWay !== undefined) this.#mustLeave(id, type);
    this.#end(job);
  }

  #mustLeave(id: string, type: string): void {
    this.#abandoned.set(id, new Set(this.#abandoned.get(id)).add(type));
  }

  #end(job: Job): void {
    this.#leave(job);
    job.declared.resolve();
    job.finished.resolve();
  }

  #leave(job: Job): void {
    job.done = true;
    if (this.#jobs.get(job.id) === job) this.#jobs.delete(job.id);
  }

  /** Tells all who wait. It is tried again from time to time, and when somebody asks. */
  #refuse(job: Job, error: DeclarationError): void {
    // Removed meanwhile, or of another type by now.
    if (job.done) return;
    this.#leave(job);
    const { id, type } = job;
    if (!this.#refused.has(id))
      this.#options.logger.error({ component: id, error: error.message }, "a component's queues cannot be declared");
    this.#refused.delete(id);
    this.#refused.set(id, { type, error, atMs: performance.now() });
    job.declared.reject(error);
    job.finished.reject(error);
  }

  #refusalOf({ id, type }: Provisioned): Refused | undefined {
    const refused = this.#refused.get(id);
    return refused?.type === type ? refused : undefined;
  }

  #retryRefused(): void {
    for (const [id, { type }] of [...this.#refused].slice(0, refusedAtOnce)) this.#job({ id, type }, false);
  }

  async #work(declaring: Lasting[]): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      if (this.#urgent.length + this.#background.length === 0) {
        await this.#markVersion(declaring[0]);
        await this.#idle();
        continue;
      }
      const declared: Declared[] = [];
      const untilMs = performance.now() + roundMs;
      do await Promise.all(declaring.map((lasting) => this.#declare(lasting, untilMs, declared)));
      while (declared.length > 0 && !(await this.#settled(untilMs)));
      if (declaring[0] !== undefined) await this.#open(declaring[0], declared);
    }
  }

  async #declare(lasting: Lasting, untilMs: number, declared: Declared[]): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted && performance.now() < untilMs) {
      const job = this.#urgent.shift() ?? this.#background.shift();
      if (job === undefined) return;
      if (job.done) continue;
      try {
        await abortable(this.#ready.promise, signal);
        const { connection: over } = await lasting.opened(signal);
        const channels = () => openedOver(lasting, over, signal);
        job.underWay = this.#declarer.declare(channels, this.#without(componentPlan(job)));
        await job.underWay;
        if (this.#settleMs === 0) await this.#declarer.open(await channels(), this.#without(componentPlan(job)));
        job.declared.resolve();
        declared.push({ job, over });
      } catch (error) {
        if (error instanceof DeclarationError) this.#refuse(job, error);
        else await this.#retry([job], error);
      }
    }
  }

  /** Waits for the queues to settle. @returns false when more are wanted meanwhile and the round has time for them. */
  async #settled(untilMs: number): Promise<boolean> {
    if (this.#settleMs === 0) return true;
    const wanted = new AbortController();
    const wake = () => wanted.abort();
    if (performance.now() < untilMs) this.#asleep.add(wake);
    const signal = AbortSignal.any([this.#abort.signal, wanted.signal]);
    await delay(this.#settleMs, undefined, { signal }).catch(() => undefined);
    this.#asleep.delete(wake);
    return this.#abort.signal.aborted || !wanted.signal.aborted;
  }

  async #open(lasting: Lasting, declared: Declared[]): Promise<void> {
    const { signal } = this.#abort;
    const failed: Job[] = [];
    let failure: unknown;
    for (const { job, over } of declared) {
      if (signal.aborted) return;
      // A removal that came meanwhile has ended the job.
      if (job.done) continue;
      try {
        const channel = await openedOver(lasting, over, signal);
        if (this.#settleMs > 0) await this.#declarer.open(channel, this.#without(componentPlan(job)));
        const former = new Set(this.#abandoned.get(job.id));
        const standing = this.#standing.get(job.id);
        if (standing !== undefined) former.add(standing);
        former.delete(job.type);
        if (former.size > 0) this.#standing.delete(job.id);
        for (const type of former) await leaveType(channel, job.id, type);
        if (job.done) continue;
        this.#abandoned.delete(job.id);
        this.#standing.set(job.id, job.type);
        this.#refused.delete(job.id);
        this.#end(job);
      } catch (error) {
        if (error instanceof DeclarationError) this.#refuse(job, error);
        else failed.push(job);
        failure = error;
      }
    }
    if (failed.length > 0) await this.#retry(failed, failure);
  }

  async #retry(jobs: Job[], error: unknown): Promise<void> {
    const { signal } = this.#abort;
    if (signal.aborted) return;
    const { broker, logger } = this.#options;
    // A broker that is away is told by its connection.
    const level = broker.state === "connected" ? "warn" : "debug";
    const components = jobs.slice(0, 10).map(({ id }) => id);
    logger[level]({ components, error: String(error) }, "queues could not be declared, trying again");
    for (const job of jobs) (job.urgent ? this.#urgent : this.#background).push(job);
    await delay(retryMs, undefined, { signal }).catch(() => undefined);
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
  async #markVersion(lasting: Lasting | undefined): Promise<void> {
    if (this.backlog > 0 || lasting?.current === undefined) return;
    await lasting.current.assertExchange(versionMarker, "fanout", { durable: true }).catch(() => undefined);
  }
}

function wordOf({ kind, name }: Entity): string {
  return `${kind} ${name}`;
}

/** The channel, unless it is one over another connection by now. */
async function openedOver(lasting: Lasting, connection: Connection, signal: AbortSignal): Promise<ConfirmChannel> {
  const channel = await lasting.opened(signal);
  if (channel.connection !== connection) throw new Error("the connection was lost meanwhile");
  return channel;
}

/** A component that changed its type hears no more of what is for the old one. */
async function leaveType(channel: ConfirmChannel, id: string, type: string): Promise<void> {
  await channel.unbindQueue(queues.broadcasts(id), exchanges.type(type), "");
  await channel.unbindQueue(queues.broadcasts(id), exchanges.signals, typeSignalKey(type));
}

interface Deferred {
  readonly promise: Promise<void>;
  settled: boolean;
  resolve(): void;
  reject(error: Error): void;
}

function deferred(): Deferred {
  let give = () => {};
  let refuse = (_error: Error) => {};
  const promise = new Promise<void>((resolve, reject) => {
    give = resolve;
    refuse = reject;
  });
  // Nobody may be waiting.
  promise.catch(() => undefined);
  const made: Deferred = {
    promise,
    settled: false,
    resolve: () => {
      made.settled = true;
      give();
    },
    reject: (error) => {
      made.settled = true;
      refuse(error);
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
    if (isMusterError(error)) throw error;
    throw new MusterError("broker-unavailable", "the broker could not provide the target's queues in time; try again", {
      retryAfterMs: 2_000,
      cause: error,
    });
  }
}
