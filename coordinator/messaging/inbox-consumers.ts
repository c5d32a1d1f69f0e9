/**
 * The consumers of a component's queues, one of each, on one channel for its inbox. They are begun and ended one after the
 * other. A consumer of the component's own queues is cancelled only when it has all that it may have: RabbitMQ puts what is
 * under way to a cancelled one back in any order, what a closed channel had in that of its arrival.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Channel, ConfirmChannel, ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { queues } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";

export interface InboxConsumersOptions {
  component: { id: string; type: string };
  broker: Broker;
  logger: Logger;
  /** Of consuming the component's own queues: the incarnation of its newest process, as that has itself by AMQP. */
  priority?: () => number | undefined;
  /** How many messages that came under this tag, on the channel that there is, are not settled; none that may be by now. */
  unsettled: (consumerTag: string) => number;
  /** @param from where it is acked, and the type whose shared queue it came from; a rejection is logged. */
  onMessage: (message: ConsumeMessage, from: { channel: Channel; sharedBy?: string }) => Promise<void>;
  /** Asked when there is a channel anew: the prefetch there, 0 for no consumers. @param prefetch so far. */
  onOpened: (prefetch: number) => number;
  /** Hears of the end of the channel: what was taken on it comes again. @returns whether as much is wanted of the next one. */
  onEnded: () => boolean;
}

/** Which consumers are ended: all with their channel, or that of the queue which others of the type share. */
type Left = "all" | "shared";

export class InboxConsumers {
  readonly #options: InboxConsumersOptions;
  #opened: ReturnType<Broker["channel"]> | undefined;
  /** Where consumers begin: also while it is still being set up. */
  #channel: ConfirmChannel | undefined;
  /** By their tags. */
  readonly #consumers = new Map<string, { queue: string; prefetch: number }>();
  /** Consumers begun so far. */
  #begun = 0;
  #prefetch = 0;
  #turn: Promise<void> = Promise.resolve();

  constructor(options: InboxConsumersOptions) {
    this.#options = options;
  }

  /** What each consumer may have at least; 0: none is to begin, those that stand go on. */
  get prefetch(): number {
    return this.#prefetch;
  }

  /** The channel on which what it gave can be settled. */
  get channel(): Channel | undefined {
    return this.#channel;
  }

  /** Whether there is a channel, or will be. */
  get isOpen(): boolean {
    return this.#opened !== undefined;
  }

  /** Whether any queue is consumed. */
  get isConsuming(): boolean {
    return this.#consumers.size > 0;
  }

  /** Whether all queues are consumed with this prefetch. */
  have(prefetch: number): boolean {
    return prefetch <= this.#prefetch && this.#opened?.channel.current !== undefined;
  }

  /**
   * Resolves when all queues are consumed, with this prefetch except where a consumer may still be given some of what it may
   * have; or when `waiting` aborts: it goes on then.
   * @param isMoot asked when its turn has come.
   */
  async begin(prefetch: number, isMoot: () => boolean, waiting: AbortSignal): Promise<void> {
    await this.#inTurn(async () => {
      if (prefetch > this.#prefetch && !isMoot()) await this.#begin(prefetch);
    });
    await this.#opened?.channel.opened(waiting).catch(() => undefined);
  }

  /** None is begun any more until `begin`, nor on a new channel; those that stand go on. */
  async pause(): Promise<void> {
    await this.#inTurn(async () => {
      this.#prefetch = 0;
    });
  }

  /** A consumer that may have one message, and has it, makes room for another one: what it has waits for long. */
  async consumeBeside(channel: Channel, consumerTag: string): Promise<void> {
    await this.#inTurn(async () => {
      const current = this.#channel;
      if (current === undefined || current !== channel || this.#prefetch === 0) return;
      if (this.#consumers.get(consumerTag)?.prefetch === 1) await this.#replace(current, consumerTag, 1);
    });
  }

  /**
   * Pauses, and ends consumers.
   * @param which asked when its turn has come; undefined leaves everything as it is.
   * @returns what it said
   */
  async leave(which: () => Left | undefined): Promise<Left | undefined> {
    let left: Left | undefined;
    await this.#inTurn(async () => {
      left = which();
      if (left === undefined) return;
      this.#prefetch = 0;
      if (left === "all") await this.close();
      else await this.#leaveShared();
    });
    return left;
  }

  /** Closes the channel; what was not settled goes back in its order. Resolves when that can be consumed again. */
  async close(): Promise<void> {
    const opened = this.#opened;
    if (opened === undefined) return;
    this.#opened = undefined;
    this.#ended();
    const startMs = performance.now();
    await opened.close();
    // RabbitMQ says that a channel is closed before all that it had is in its queues again: the busier the earlier.
    await delay(Math.max(putBackMs, performance.now() - startMs));
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    await done;
  }

  async #begin(prefetch: number): Promise<void> {
    const { broker, component, logger } = this.#options;
    this.#prefetch = prefetch;
    if (this.#opened === undefined) {
      const opened = broker.channel({
        name: `inbox ${component.id}`,
        setup: (channel) =>
          this.#inTurn(async () => {
            if (this.#opened === opened) await this.#beginOn(channel);
          }),
        onLost: () => this.#ended(),
      });
      this.#opened = opened;
      return;
    }
    if (this.#channel === undefined) return;
    try {
      await this.#consumeAll(this.#channel);
    } catch (error) {
      // The channel is lost: the next one is set up with the new prefetch.
      logger.debug({ component: component.id, error: String(error) }, "consuming was interrupted");
    }
  }

  async #beginOn(channel: ConfirmChannel): Promise<void> {
    this.#channel = channel;
    this.#prefetch = this.#options.onOpened(this.#prefetch);
    if (this.#prefetch > 0) await this.#consumeAll(channel);
  }

  #ended(): void {
    this.#channel = undefined;
    this.#consumers.clear();
    if (!this.#options.onEnded()) this.#prefetch = 0;
  }

  async #consumeAll(channel: ConfirmChannel): Promise<void> {
    const { component, unsettled } = this.#options;
    const { id, type } = component;
    const wanted = this.#prefetch;
    for (const queue of [queues.commands(id), queues.requests(id), queues.broadcasts(id), queues.any(type)]) {
      const [tag, prefetch] = this.#consumerOf(queue);
      if (tag === undefined) await this.#consume(channel, queue, wanted);
      // Else it may have more, which may be under way: it is enough for now.
      else if (unsettled(tag) >= prefetch) await this.#replace(channel, tag, wanted);
    }
    // Who wants more is to try again.
    if (channel === this.#channel)
      this.#prefetch = Math.min(...[...this.#consumers.values()].map(({ prefetch }) => prefetch));
  }

  #consumerOf(queue: string): [tag: string, prefetch: number] | [undefined] {
    for (const [tag, consumer] of this.#consumers) if (consumer.queue === queue) return [tag, consumer.prefetch];
    return [undefined];
  }

  async #consume(channel: ConfirmChannel, queue: string, prefetch: number): Promise<void> {
    const { component, priority: priorityOf, onMessage, logger } = this.#options;
    const { id, type } = component;
    const isShared = queue === queues.any(type);
    // Before an older process that still consumes by AMQP.
    const priority = isShared ? undefined : priorityOf?.();
    // RabbitMQ puts back what a channel had in the order of the tags.
    const consumerTag = `${++this.#begun}`.padStart(12, "0");
    const options = { prefetch, consumerTag, ...(priority !== undefined && { priority }) };
    const from = { channel, ...(isShared && { sharedBy: type }) };
    await consume(channel, queue, options, (message) => {
      onMessage(message, from).catch((error) =>
        logger.warn({ component: id, error: String(error) }, "a message could not be taken in"),
      );
    });
    if (channel === this.#channel) this.#consumers.set(consumerTag, { queue, prefetch });
  }

  /**
   * Of a consumer that has all that it may have: the broker counts what is unacknowledged for each, and no longer for one that
   * was cancelled.
   */
  async #replace(channel: ConfirmChannel, tag: string, prefetch: number): Promise<void> {
    const { queue } = this.#consumers.get(tag) ?? {};
    if (queue === undefined) return;
    await this.#cancel(channel, tag);
    await this.#consume(channel, queue, prefetch);
  }

  async #cancel(channel: ConfirmChannel, tag: string): Promise<void> {
    this.#consumers.delete(tag);
    await channel.cancel(tag);
  }

  async #leaveShared(): Promise<void> {
    const [tag] = this.#consumerOf(queues.any(this.#options.component.type));
    if (this.#channel !== undefined && tag !== undefined) await this.#cancel(this.#channel, tag);
  }
}

/** At least. */
const putBackMs = 25;
