/**
 * Passes a component that polls from one coordinator of the site to another. Behind a load balancer the next poll reaches
 * any of them. The former one has messages ready, and given back to the queue they would come after those that the broker
 * has under way, and each time count as a delivery: so a coordinator that begins asks whoever consumes already, which
 * hands out what it has ready, or lets go.
 */
import { randomUUID } from "node:crypto";
import type { ConsumeMessage, Options } from "amqplib";
import type { Logger } from "pino";
import { exchanges, queues } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type InboxMessage, inboxLimits, type Wanted } from "./inbox.ts";
import { type Inboxes, tokenOf } from "./inboxes.ts";
import { OwnQueue } from "./own-queue.ts";

export interface HandoverOptions {
  broker: Broker;
  inboxes: Inboxes;
  logger: Logger;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
}

/** What coordinators tell each other. `token` is whose question it is; `back` are deliveries that came too late for it. */
type Told =
  | ({ component: string; token: string } & Wanted)
  | { component: string; messages: InboxMessage[] }
  | { component: string; back: string[] };

const prefetch = 100;
/** Who consumes may be an AMQP client of the component, which does not answer. */
const answerMaxMs = 500;

export class Handover {
  readonly #options: HandoverOptions;
  readonly #asked = new Map<string, (messages: InboxMessage[]) => void>();
  readonly #told: OwnQueue;

  constructor(options: HandoverOptions) {
    this.#options = options;
    const { broker, inboxes, logger, ready } = options;
    this.#told = new OwnQueue({
      ...{ broker, name: "handover", exchange: exchanges.requests, ready, prefetch },
      keys: () => [keyOf(), keyOf(inboxes.token)],
      onMessage: (message) => {
        this.#take(message).catch((error) => logger.warn({ error: String(error) }, "an inbox was not handed over"));
      },
    });
  }

  start(): void {
    this.#told.start();
  }

  async close(): Promise<void> {
    await this.#told.close();
  }

  /** What another coordinator has ready for the component. None when nobody else consumes, or whoever did lets go. */
  async ask(component: string, wanted: Wanted, signal: AbortSignal): Promise<InboxMessage[]> {
    const { inboxes, logger } = this.#options;
    try {
      const { consumerCount } = (await this.#told.current?.checkQueue(queues.commands(component))) ?? {};
      if (consumerCount === undefined || consumerCount === 0) return [];
      const id = randomUUID();
      return await new Promise((resolve, reject) => {
        const end = (messages: InboxMessage[]) => {
          clearTimeout(timer);
          signal.removeEventListener("abort", none);
          this.#asked.delete(id);
          resolve(messages);
        };
        const none = () => end([]);
        const timer = setTimeout(none, answerMaxMs);
        signal.addEventListener("abort", none);
        this.#asked.set(id, end);
        this.#tell(
          keyOf(),
          { component, token: inboxes.token, ...wanted },
          { messageId: id, expiration: answerMaxMs },
        ).catch(reject);
      });
    } catch (error) {
      logger.debug({ component, error: String(error) }, "other coordinators were not asked for what they have ready");
      return [];
    }
  }

  async #take({ content, properties }: ConsumeMessage): Promise<void> {
    const { inboxes } = this.#options;
    const told: Told = JSON.parse(content.toString("utf8"));
    const { component } = told;
    const inbox = inboxes.existing(component);
    if ("back" in told) inbox?.takeBack(told.back);
    else if ("messages" in told) {
      const asked = this.#asked.get(properties.correlationId);
      if (asked !== undefined) asked(told.messages);
      else if (told.messages[0] !== undefined)
        await this.#tell(keyOf(tokenOf(told.messages[0].delivery)), {
          component,
          back: told.messages.map(({ delivery }) => delivery),
        });
    } else if (told.token !== inboxes.token && isPoll(told)) {
      const messages = await inbox?.handOver(told);
      if (messages === undefined) return;
      await this.#tell(keyOf(told.token), { component, messages }, { correlationId: properties.messageId });
    }
  }

  async #tell(key: string, told: Told, properties: Options.Publish = {}): Promise<void> {
    const content = Buffer.from(JSON.stringify(told));
    const options = { ...properties, persistent: false };
    await this.#options.broker.publish({ exchange: exchanges.requests, key, content, options, timeoutMs: answerMaxMs });
  }
}

/** Anyone may publish here. */
function isPoll({ max, visibilityMs }: Wanted): boolean {
  const isWithin = (value: number, { min, max }: { min: number; max: number }) =>
    Number.isInteger(value) && value >= min && value <= max;
  return isWithin(max, inboxLimits.max) && isWithin(visibilityMs, inboxLimits.visibilityMs);
}

/** @param token of one coordinator; not given: all. No component's id has a colon. */
function keyOf(token = ""): string {
  return `handover:${token}`;
}
