/** The inboxes of all components that consume through this coordinator. */
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import type { Broker } from "./broker.ts";
import type { Consumer } from "./consumer.ts";
import { Inbox, type InboxOptions, inboxLimits } from "./inbox.ts";
import type { Provisioned, Provisioning } from "./provisioning.ts";

export interface InboxesOptions {
  /** Of this process: 8 hexadecimal digits. */
  token: string;
  broker: Broker;
  consumer: Consumer;
  provisioning: Provisioning;
  logger: Logger;
  /** What another coordinator of the site has ready for a component (handover.ts). */
  elsewhere: InboxOptions["elsewhere"];
  reached: InboxOptions["reached"];
  isAlone: InboxOptions["isAlone"];
  /** Of a component's newest process. */
  incarnationOf(id: string): number | undefined;
}

const deliveryPattern = /^([0-9a-f]{8})-[0-9a-z]+$/;

/** The coordinator that handed a delivery out; undefined for what is no delivery's id. */
export function tokenOf(delivery: string): string | undefined {
  return deliveryPattern.exec(delivery)?.[1];
}

export class Inboxes {
  readonly #options: InboxesOptions;
  readonly #inboxes = new Map<string, Inbox>();
  /** Begins every delivery id: tells this process from other coordinators of the site, and from earlier ones. */
  readonly token: string;
  #deliveries = 0;

  constructor(options: InboxesOptions) {
    this.#options = options;
    this.token = options.token;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#inboxes.values()].map((inbox) => inbox.close()));
    this.#inboxes.clear();
  }

  /**
   * The inbox of a component of this site; its queues stand then.
   * @throws MusterError `too-many`, `broker-unavailable`.
   */
  async of({ id, type }: Provisioned): Promise<Inbox> {
    const { broker, consumer, provisioning, logger, elsewhere, reached, isAlone, incarnationOf } = this.#options;
    await provisioning.declared({ id, type });
    const found = this.#inboxes.get(id);
    if (found !== undefined && found.component.type === type) return found;
    if (found !== undefined) await this.drop(id);
    this.#forgetResting();
    if (this.#inboxes.size >= inboxLimits.inboxes)
      throw new MusterError(
        "too-many",
        `${inboxLimits.inboxes} components poll this coordinator already; use another coordinator of the site, or try again`,
        { retryAfterMs: inboxLimits.lingerMs },
      );
    const inbox = new Inbox({
      component: { id, type },
      broker,
      consumer,
      logger,
      elsewhere,
      reached,
      isAlone,
      priority: () => incarnationOf(id),
      deliveryId: () => `${this.token}-${(++this.#deliveries).toString(36)}`,
    });
    this.#inboxes.set(id, inbox);
    return inbox;
  }

  /** The inbox that has handed something out; undefined when this component has none here. */
  existing(id: string): Inbox | undefined {
    return this.#inboxes.get(id);
  }

  /** Gives back what the component's inbox holds: it is gone, or changed its type. */
  async drop(id: string): Promise<void> {
    const inbox = this.#inboxes.get(id);
    this.#inboxes.delete(id);
    await inbox?.close();
  }

  #forgetResting(): void {
    if (this.#inboxes.size < inboxLimits.inboxes) return;
    for (const [id, inbox] of this.#inboxes) if (inbox.resting) this.#inboxes.delete(id);
  }
}
