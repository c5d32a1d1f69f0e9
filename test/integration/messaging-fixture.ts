/** A Messaging with a registry of plain data, on a vhost of its own. */
import { randomBytes } from "node:crypto";
import { type Channel, type ChannelModel, type ConsumeMessage, connect } from "amqplib";
import { pino } from "pino";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { Store } from "../../config-db/store.ts";
import type { Member, Members } from "../../coordinator/messaging/members.ts";
import { Messaging, type MessagingOptions } from "../../coordinator/messaging/messaging.ts";
import { draftLetter } from "../../coordinator/messaging/send.ts";
import { brokerStartTimeoutMs, type Vhost } from "../support/broker.ts";

type EmbeddedServer = Awaited<ReturnType<typeof startEmbedded>>;

export const site = "here";
export const silent = pino({ level: process.env.LOG_LEVEL ?? "silent" });

/** A registry that a test writes straight. */
export class FakeMembers implements Members {
  readonly #members = new Map<string, Member>();

  add(given: Partial<Member> = {}): Member {
    const member: Member = { id: unique("c"), type: unique("t"), site, state: "up", ttlMs: 30_000, ...given };
    this.#members.set(member.id, member);
    return member;
  }

  delete(id: string): void {
    this.#members.delete(id);
  }

  get(id: string): Member | undefined {
    return this.#members.get(id);
  }

  all(): Iterable<Member> {
    return this.#members.values();
  }
}

export function unique(prefix: string): string {
  return `${prefix}-${randomBytes(4).toString("hex")}`;
}

export interface Site {
  messaging: Messaging;
  members: FakeMembers;
  store: Store;
}

/** Gives the enclosing `describe` a started Messaging on a store in memory. What it returns is read inside tests only. */
export function useMessaging(vhost: Vhost, options: Partial<MessagingOptions> = {}): Site {
  const members = new FakeMembers();
  let server: EmbeddedServer | undefined;
  let made: { messaging: Messaging; store: Store } | undefined;
  before(async function () {
    this.timeout(brokerStartTimeoutMs);
    server = await startEmbedded({ port: 0 });
    const store = new Store(server.url);
    await install(store);
    const messaging = createMessaging(vhost, members, store, options);
    await messaging.start();
    await messaging.ready();
    made = { messaging, store };
  });
  after(async () => {
    await made?.messaging.close();
    await server?.close();
  });
  const current = () => {
    if (made === undefined) throw new Error("the site exists only inside hooks and tests");
    return made;
  };
  return {
    members,
    get messaging() {
      return current().messaging;
    },
    get store() {
      return current().store;
    },
  };
}

export function createMessaging(
  { url, managementUrl }: { url: string; managementUrl: string },
  members: Members,
  store: Store,
  options: Partial<MessagingOptions> = {},
): Messaging {
  // What settling is for is shown by the fault tests.
  const given = { amqpUrl: url, managementUrl, queueSettleMs: 0 };
  return new Messaging({ ...given, site, store, members, logger: silent, ...options });
}

/** A foreign AMQP client: it may publish and consume anything. */
export interface Foreign {
  channel: Channel;
  consume(queue: string, take: (message: ConsumeMessage) => void): Promise<void>;
  close(): Promise<void>;
}

export async function foreignClient(url: string): Promise<Foreign> {
  const connection: ChannelModel = await connect(url, { noDelay: true });
  connection.on("error", () => undefined);
  const channel = await connection.createChannel();
  channel.on("error", () => undefined);
  return {
    channel,
    consume: async (queue, take) => {
      await channel.consume(queue, (message) => {
        if (message !== null) take(message);
      });
    },
    close: () => connection.close().catch(() => undefined),
  };
}

export function command(name: string, body: unknown = null, more: Record<string, unknown> = {}) {
  const content = Buffer.from(JSON.stringify(body));
  return draftLetter({ messageId: unique("m"), kind: "command", name, ...more }, content, Date.now());
}
