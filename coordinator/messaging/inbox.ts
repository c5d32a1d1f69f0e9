/**
 * A component's inbox: what lets it consume its queues over HTTP. Messages are handed out under a delivery id and come back
 * when they are not settled in time. Queues are consumed only while somebody asks, or has something in hand, and no further
 * ahead than asked for.
 */
import { setMaxListeners } from "node:events";
import type { ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import type { Broker } from "./broker.ts";
import type { Consumer, Delivery } from "./consumer.ts";
import { InboxConsumers } from "./inbox-consumers.ts";
import { InboxDeliveries, type InboxMessage, type NackOptions } from "./inbox-deliveries.ts";

export const inboxLimits = {
  /** Messages of one answer, and deliveries open at once per queue. */
  max: { min: 1, max: 100, default: 10 },
  /** Over 30 minutes RabbitMQ closes the channel and gives the message out again, which then joins the open delivery. */
  visibilityMs: { min: 100, max: 3_600_000, default: 30_000 },
  /** After so long without a poll, and with nothing in hand, the queues are left: the next poll may reach another coordinator. */
  lingerMs: 1_000,
  /** Inboxes in use at once per coordinator: each holds a channel, of which a connection has 2,047. */
  inboxes: 1_500,
} as const;

/** What a poll asks for. */
export interface Wanted {
  max: number;
  visibilityMs: number;
  /** What was handed out and not settled comes again: an answer was lost, or the process that had it. */
  again?: boolean;
  /** All that was taken: who asks consumes by itself from then on. */
  last?: boolean;
}

/** What another coordinator is asked that is polled. */
export interface WantedElsewhere extends Wanted {
  /** Wait so long for the first message where this one consumes on. */
  waitMs?: number;
}

/** How long who polls still waits, in milliseconds, and what ends that early. */
export interface Asking {
  waitMs: number;
  signal: AbortSignal;
}

export interface InboxOptions {
  component: { id: string; type: string };
  broker: Broker;
  consumer: Consumer;
  logger: Logger;
  /** Of consuming the component's own queues: the incarnation of its newest process, as that has itself by AMQP. */
  priority?: () => number | undefined;
  /** Makes delivery ids; unique over all coordinators. */
  deliveryId: () => string;
  /**
   * What other coordinators of the site have ready for the component; none when none has and they let go, undefined when none
   * came in time to one that consumes on.
   * @throws MusterError `broker-unavailable` when this one cannot ask them, or one does not answer who asks `again` or for the
   *   `last` time.
   */
  elsewhere: (component: string, wanted: Wanted, asking: Asking) => Promise<InboxMessage[] | undefined>;
  /** By what the others ask this one: something else after each loss of the connection, undefined until it stands. */
  reached: () => unknown;
  /** Whether no other coordinator of the site is known, which might consume for the component. */
  isAlone: () => boolean;
}

interface Waiter {
  max: number;
  visibilityMs: number;
  /** @param messages undefined when the channel was lost. */
  give(messages: InboxMessage[] | undefined): void;
}

interface Stream {
  visibilityMs: number;
  give(message: InboxMessage): void;
}

export class Inbox {
  readonly #options: InboxOptions;
  readonly #waiters: Waiter[] = [];
  readonly #streams = new Set<Stream>();
  /** While these pause, who polls asks the other coordinators before they go on. */
  readonly #consumers: InboxConsumers;
  readonly #deliveries: InboxDeliveries;
  /** By what this one could be asked when it had last asked the others. */
  #reached: unknown;
  #arrivedAtMs = Number.NEGATIVE_INFINITY;
  readonly #closing = new AbortController();
  #pumping = false;
  /** What polls here, and at others for which this one consumes, are ended by. */
  readonly #polls = new Set<AbortController>();
  /** Polls that begin. */
  readonly #beginning = new Set<object>();
  /** Streams and runs of `work`, those that begin among them. */
  #working = 0;
  #linger: NodeJS.Timeout | undefined;

  constructor(options: InboxOptions) {
    this.#options = options;
    this.#consumers = new InboxConsumers({
      ...options,
      unsettled: (tag) => this.#deliveries.unsettled(tag),
      onMessage: (message, from) => this.#arrived(message, from),
      onOpened: (prefetch) => this.#prefetchAnew(prefetch),
      onEnded: () => this.#ended(),
    });
    this.#deliveries = new InboxDeliveries({
      ...options,
      consumers: this.#consumers,
      onSettled: () => this.#rest(),
    });
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  get component(): { id: string; type: string } {
    return this.#options.component;
  }

  /** True when nothing is consumed, handed out or waited for. */
  get resting(): boolean {
    return !this.#consumers.isOpen && this.#deliveries.isIdle;
  }

  /**
   * Resolves with up to `max` messages: those that are there, or the first that come within `waitMs`, or none. A poll that
   * has to begin consuming may take 3 s longer, in whatever state the broker is.
   * @throws MusterError `broker-unavailable`: the other coordinators of the site cannot be asked, or with `again` and `last` not
   *   every one has answered.
   */
  async poll({ signal, ...wanted }: Wanted & { waitMs: number; signal: AbortSignal }): Promise<InboxMessage[]> {
    if (wanted.again === true) this.#reclaim();
    if (signal.aborted || this.#closed) return [];
    if (wanted.last !== true) return await this.#whilePolled(signal, (polled) => this.#poll(wanted, polled));
    const isNewest = this.#isNewest;
    const held = (await this.handOver({ ...wanted, again: false }, signal)) ?? [];
    const others = (await this.#options.elsewhere(this.component.id, wanted, { waitMs: wanted.waitMs, signal })) ?? [];
    return isNewest ? [...others, ...held] : [...held, ...others];
  }

  /** @param poll is given a signal that aborts when its answer would reach nobody, and keep messages until they are overdue. */
  async #whilePolled<T>(signal: AbortSignal, poll: (polled: AbortSignal) => Promise<T>): Promise<T> {
    const polled = new AbortController();
    const end = () => polled.abort();
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
    this.#polls.add(polled);
    try {
      return await poll(polled.signal);
    } finally {
      this.#polls.delete(polled);
      signal.removeEventListener("abort", end);
    }
  }

  async #poll({ waitMs, ...wanted }: Wanted & { waitMs: number }, signal: AbortSignal): Promise<InboxMessage[]> {
    const { max, visibilityMs, again = false } = wanted;
    const isMoot = () => signal.aborted;
    const endsAtMs = performance.now() + waitMs;
    const asking = () => ({ waitMs: endsAtMs - performance.now(), signal });
    const { id } = this.component;
    if (again) {
      // Who consumes does not ask the others, and they may have more than fits into one answer.
      if (this.#streams.size === 0) await this.#consumers.pause();
      await this.#options.elsewhere(id, wanted, asking());
      if (isMoot()) return [];
    }
    for (;;) {
      // Nothing more is consumed while anything read ahead is left, here or where a poll before this one was.
      if (this.#consumers.prefetch === 0) {
        const held = this.#isNewest ? [] : this.#handOut(max, visibilityMs);
        if (held.length > 0) return held;
        const others = await this.#options.elsewhere(id, { max, visibilityMs }, asking());
        if (others !== undefined && others.length > 0) return others;
        if (isMoot()) return [];
        const ready = this.#handOut(max, visibilityMs);
        if (ready.length > 0) return ready;
        if (others === undefined && performance.now() < endsAtMs) continue;
        if (others === undefined) return [];
        this.#reached = this.#options.reached();
      }
      await this.#wake(max);
      if (isMoot()) {
        this.#rest();
        return [];
      }
      const messages = this.#handOut(max, visibilityMs);
      if (messages.length > 0) return messages;
      // The channel was lost before it was consumed on.
      if (this.#consumers.prefetch === 0 && performance.now() < endsAtMs) continue;
      const awaited = await this.#await({ max, visibilityMs }, asking());
      if (awaited !== undefined) return awaited;
    }
  }

  /** Who consumes still began when the others had let go: what they have is older. */
  get #isNewest(): boolean {
    return this.#consumers.isConsuming;
  }

  /** @returns the next messages; none when none came in time; undefined when the channel was lost. */
  #await({ max, visibilityMs }: Wanted, { waitMs, signal }: Asking): Promise<InboxMessage[] | undefined> {
    return new Promise((resolve) => {
      const waiter: Waiter = {
        max,
        visibilityMs,
        give: (messages) => {
          clearTimeout(timer);
          signal.removeEventListener("abort", end);
          this.#rest();
          resolve(messages);
        },
      };
      const end = () => {
        const index = this.#waiters.indexOf(waiter);
        if (index >= 0) this.#waiters.splice(index, 1);
        waiter.give([]);
      };
      // Without a wait the broker still gets a moment to hand over what is there.
      const timer = setTimeout(end, Math.max(waitMs, graceMs));
      signal.addEventListener("abort", end, { once: true });
      this.#waiters.push(waiter);
      this.#pump();
    });
  }

  /**
   * Gives `handle` every message as it comes, at most `max` of a queue at once, until `signal` aborts or a call of it
   * rejects. What it leaves unsettled goes back to its place, at no attempt. Resolves when every call has ended.
   * @param handle must begin nothing any more once the signal that it is given has aborted.
   * @throws what `handle` first threw
   */
  async work(
    { max, visibilityMs, signal }: { max: number; visibilityMs: number; signal: AbortSignal },
    handle: (message: InboxMessage, ending: AbortSignal) => Promise<void>,
  ): Promise<void> {
    this.#working += 1;
    await this.#wake(max);
    const ending = new AbortController();
    // Every message that waits its turn listens to it: that is no leak.
    setMaxListeners(0, ending.signal);
    const under = new Set<Promise<void>>();
    const failures: unknown[] = [];
    const take = async (message: InboxMessage) => {
      try {
        await handle(message, ending.signal);
      } catch (error) {
        failures.push(error);
        ending.abort();
      } finally {
        this.#deliveries.release(message.delivery);
      }
    };
    const stream: Stream = {
      visibilityMs,
      give: (message) => {
        const taken = take(message).finally(() => under.delete(taken));
        under.add(taken);
      },
    };
    this.#streams.add(stream);
    this.#pump();
    await anyAborted([signal, ending.signal, this.#closing.signal]);
    ending.abort();
    this.#streams.delete(stream);
    await Promise.all(under);
    this.#working -= 1;
    this.#pump();
    this.#rest();
    if (failures.length > 0) throw failures[0];
  }

  /** Gives every message as it comes, until the returned function is called. */
  async stream(stream: Stream): Promise<() => void> {
    if (this.#closed) {
      const told = "the inbox was given back at the moment it was opened; open it again";
      throw new MusterError("broker-unavailable", told, { retryAfterMs: 1_000 });
    }
    this.#working += 1;
    await this.#wake(inboxLimits.max.default);
    this.#streams.add(stream);
    this.#pump();
    return () => {
      if (this.#streams.delete(stream)) this.#working -= 1;
      this.#rest();
    };
  }

  /** Handled. @throws MusterError `no-such-delivery`; `broker-unavailable`: the delivery stays open. */
  async ack(delivery: string): Promise<void> {
    await this.#deliveries.ack(delivery);
  }

  /** Handled, with an answer. @throws MusterError as `ack`, and `refused` when it is no request. */
  async reply(delivery: string, body: { content: Buffer; contentType: string }): Promise<void> {
    await this.#deliveries.reply(delivery, body);
  }

  /** Failed. @throws MusterError as `ack` */
  async nack(delivery: string, failure: NackOptions): Promise<void> {
    await this.#deliveries.nack(delivery, failure);
  }

  /** Asked before a handling that begins later: settles the delivery when its deadline is past. @returns whether it was. */
  expired(delivery: string): boolean {
    return this.#deliveries.expired(delivery);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#linger);
    this.#deliveries.clear();
    this.#outdate();
    await this.#consumers.close();
  }

  /**
   * Another coordinator is polled for this component. Hands out what is ready here; when nothing is it leaves the queues to
   * that one, unless anything is in hand or came lately: then it consumes on, also for that one.
   * @returns undefined when it does and nothing came in time.
   */
  async handOver(wanted: WantedElsewhere, signal: AbortSignal): Promise<InboxMessage[] | undefined> {
    const { max, visibilityMs, waitMs = 0, again = false, last = false } = wanted;
    if (again) this.#reclaim();
    else if (last) this.#outdate();
    if (this.#working > 0 || (again && !last)) return [];
    if (last) await this.#consumers.pause();
    const ready = this.#handOut(last ? this.#deliveries.ready : max, visibilityMs);
    if (ready.length > 0) return ready;
    return await this.#whilePolled(signal, async (polled) => {
      const isQuiet = () => last || performance.now() - this.#arrivedAtMs >= quietMs;
      await this.#leave(() => this.#deliveries.isIdle && this.#deliveries.ready === 0 && isQuiet());
      if (last || !this.#consumers.isConsuming) return [];
      await this.#wake(max);
      if (polled.aborted) return undefined;
      const next = this.#handOut(max, visibilityMs);
      if (next.length > 0) return next;
      const awaited = await this.#await({ max, visibilityMs }, { waitMs, signal: polled });
      return awaited?.length === 0 ? undefined : (awaited ?? []);
    });
  }

  /** Polls so far are answered with none: nobody waits for them any more. */
  #outdate(): void {
    for (const polled of this.#polls) polled.abort();
    this.#beginning.clear();
  }

  /** What was handed out is ready again, at no attempt. */
  #reclaim(): void {
    this.#outdate();
    this.#deliveries.releaseAll();
    this.#rest();
  }

  /** What another coordinator could not pass on is ready again, at no attempt. */
  takeBack(deliveries: string[]): void {
    for (const delivery of deliveries) this.#deliveries.release(delivery);
    this.#pump();
    this.#rest();
  }

  // --- consuming -----------------------------------------------------------------------------------------------

  /** Resolves when the queues are consumed, or when that takes too long: it goes on then. */
  async #wake(prefetch: number): Promise<void> {
    clearTimeout(this.#linger);
    if (this.#consumers.have(prefetch)) return;
    const own = {};
    this.#beginning.add(own);
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), startMaxMs);
    const isMoot = () => this.#closed || !this.#beginning.has(own) || !this.#mayConsume;
    const consuming = this.#consumers.begin(prefetch, isMoot, late.signal);
    await Promise.race([consuming, anyAborted([late.signal, this.#closing.signal])]);
    clearTimeout(timer);
    late.abort();
    this.#beginning.delete(own);
  }

  /** Since its connection was lost another one may have asked it in vain, and consume. */
  get #mayConsume(): boolean {
    return this.#working > 0 || this.#reached === this.#options.reached();
  }

  /** @returns whether as much is to be consumed on the next channel. */
  #ended(): boolean {
    this.#deliveries.lost();
    for (const waiter of this.#waiters.splice(0)) waiter.give(undefined);
    // By the time that there is one, a component that polls may be polling another coordinator.
    return this.#working > 0;
  }

  /** On a new channel. */
  #prefetchAnew(prefetch: number): number {
    this.#rest();
    // Whoever asked may have gone meanwhile.
    if (prefetch > 0 && this.#isWanted() && this.#mayConsume) return prefetch;
    // What is handed out must come back, to be settled on this channel, and nothing more: it would wait here for nobody. Where
    // another coordinator may consume by now that one would be given what is younger meanwhile.
    return this.#options.isAlone() ? Math.min(this.#deliveries.inHand, inboxLimits.max.max) : 0;
  }

  async #arrived(message: ConsumeMessage, from: Pick<Delivery, "channel" | "sharedBy">): Promise<void> {
    this.#arrivedAtMs = performance.now();
    if (!(await this.#deliveries.takeIn(message, from))) return;
    this.#pump();
    // It came while its queue was left.
    if (this.#consumers.prefetch === 0 && from.sharedBy !== undefined) this.#rest();
  }

  /** Hands out what is ready to whoever waits; messages that came together go together. */
  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      const [stream] = this.#streams;
      if (stream !== undefined) {
        while (this.#deliveries.ready > 0)
          for (const message of this.#handOut(this.#deliveries.ready, stream.visibilityMs))
            this.#stream(stream, message);
        return;
      }
      for (let [waiter] = this.#waiters; waiter !== undefined; [waiter] = this.#waiters) {
        const messages = this.#handOut(waiter.max, waiter.visibilityMs);
        if (messages.length === 0) return;
        this.#waiters.shift();
        waiter.give(messages);
      }
    });
  }

  /** A throw here, in a microtask, would end the process. */
  #stream(stream: Stream, message: InboxMessage): void {
    try {
      stream.give(message);
    } catch (error) {
      this.#deliveries.giveUp(message.delivery, error);
    }
  }

  /** Left alone for a while, what nobody took goes back to its queue. */
  #rest(): void {
    clearTimeout(this.#linger);
    if (this.#isWanted()) return;
    this.#linger = setTimeout(() => {
      this.#leave().catch(() => undefined);
    }, inboxLimits.lingerMs);
    this.#linger.unref();
  }

  #isWanted(): boolean {
    return this.#closed || this.#waiters.length > 0 || this.#beginning.size > 0 || this.#working > 0;
  }

  async #leave(isToBe = () => true): Promise<void> {
    // What is in hand is settled on this channel. What is this component's own waits for its next poll, at whichever coordinator;
    // others of its type may have the rest.
    const left = await this.#consumers.leave(() => {
      if (this.#isWanted() || !isToBe()) return undefined;
      return this.#deliveries.isIdle ? "all" : "shared";
    });
    if (left === "shared") this.#deliveries.giveBackShared();
  }

  /** @returns none only when none is ready. */
  #handOut(max: number, visibilityMs: number): InboxMessage[] {
    this.#rest();
    return this.#deliveries.handOut(max, visibilityMs);
  }
}

/** Resolves when one of them has aborted. */
function anyAborted(signals: AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      for (const signal of signals) signal.removeEventListener("abort", end);
      resolve();
    };
    for (const signal of signals) signal.addEventListener("abort", end);
    if (signals.some((signal) => signal.aborted)) end();
  });
}

const graceMs = 50;
/** Of one that is sent much to, a message may be under way just when its queues are left, and be overtaken when it is put back. */
const quietMs = 1_000;
/** How long a poll waits for its consumers to stand. */
const startMaxMs = 2_000;
