/**
 * The broker as the rest of messaging sees it: one connection to publish, one to consume and declare. A consumer that is
 * slow to read never holds up a publish; and a broker that is low on memory or disk reads nothing more from connections
 * that publish, so nothing else goes over that one.
 */
import type { ConfirmChannel } from "amqplib";
import type { Logger } from "pino";
import { LastingChannel } from "./lasting-channel.ts";
import { type Entity, Link, takesNone } from "./link.ts";
import { type Publication, Publisher, type PublishOutcome } from "./publisher.ts";

export interface BrokerOptions {
  /** `amqp://user:password@host:port/vhost` */
  url: string;
  site: string;
  logger: Logger;
}

export class Broker {
  readonly #publishing: Link;
  readonly #consuming: Link;
  readonly #publisher: Publisher;
  readonly #logger: Logger;
  readonly #channels = new Set<LastingChannel>();

  constructor({ url, site, logger }: BrokerOptions) {
    this.#logger = logger;
    this.#publishing = new Link({ url, logger, name: `muster ${site} publish` });
    this.#consuming = new Link({ url, logger, name: `muster ${site} consume` });
    this.#publisher = new Publisher({ link: this.#publishing, logger });
  }

  /** Begins to connect. The broker may be away: everything waits for it, and comes back after each loss. */
  start(): void {
    this.#publishing.start();
    this.#consuming.start();
    this.#publisher.start();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#channels].map((channel) => channel.close()));
    await this.#publisher.close();
    await Promise.all([this.#publishing.close(), this.#consuming.close()]);
  }

  get state(): "connected" | "disconnected" {
    return this.#publishing.up && this.#consuming.up ? "connected" : "disconnected";
  }

  /** Why no message can be sent at the moment; undefined when they can. */
  get fault(): string | undefined {
    if (this.state === "disconnected") return "not connected";
    const { blocked } = this.#publishing;
    return blocked === undefined ? undefined : takesNone(blocked);
  }

  onStateChange(listener: (state: "connected" | "disconnected") => void): () => void {
    const tell = () => listener(this.state);
    const ends = [this.#publishing.onChange(tell), this.#consuming.onChange(tell)];
    return () => {
      for (const end of ends) end();
    };
  }

  /** `listener` hears of every exchange and queue that somebody needed and the broker has not. @returns what ends that. */
  onMissing(listener: (what: Entity) => void): () => void {
    const ends = [this.#publishing.onMissing(listener), this.#consuming.onMissing(listener)];
    return () => {
      for (const end of ends) end();
    };
  }

  publish(publication: Publication): Promise<PublishOutcome> {
    return this.#publisher.publish(publication);
  }

  get inFlight(): number {
    return this.#publisher.inFlight;
  }

  /**
   * Opens a channel for as long as its owner wants it: started, and opened again with `setup` after every loss. It consumes
   * and declares; what is to be published goes through `publish`.
   */
  channel(options: { name: string; setup?: (channel: ConfirmChannel) => Promise<void>; onLost?: () => void }): {
    readonly channel: LastingChannel;
    close(): Promise<void>;
  } {
    const channel = new LastingChannel({ link: this.#consuming, logger: this.#logger, ...options });
    this.#channels.add(channel);
    channel.start();
    return {
      channel,
      close: async () => {
        this.#channels.delete(channel);
        await channel.close();
      },
    };
  }
}
