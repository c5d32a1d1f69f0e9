/** Messages in and out over whichever way is open: AMQP when the broker can be reached, else HTTP. */
import type { ConsumeMessage } from "amqplib";
import { isErrorCode, MusterError } from "../../../config-db/errors.ts";
import type { Health, Settings } from "../../../config-db/generated/types.ts";
import { queues } from "../../../config-db/names.ts";
import { AmqpDelivery } from "./amqp-delivery.ts";
import { AmqpLink } from "./amqp-link.ts";
import { type Arrived, draftOf, readArrived, routeOf } from "./amqp-message.ts";
import { publishOptions } from "./amqp-options.ts";
import { AmqpSender } from "./amqp-sender.ts";
import type { AmqpSession } from "./amqp-session.ts";
import type { Bridge } from "./bridge.ts";
import type { Receiver } from "./delivery.ts";
import { HttpInbox } from "./http-inbox.ts";
import { HttpSender } from "./http-sender.ts";
import type { Logger } from "./logger.ts";
import type { Outgoing } from "./message.ts";
import { Outbox, type OutboxOptions } from "./outbox.ts";
import type { Reply, Sent } from "./transport.ts";

/** The way that messages take now; `none` where only AMQP is allowed and the broker is away. */
export type Way = "amqp" | "http" | "none";

export interface MessengerOptions {
  bridge: Bridge;
  id: string;
  type: string;
  transport: "auto" | "amqp" | "http";
  prefetch: number;
  /** Of this process; undefined before it is registered. */
  incarnation(): number | undefined;
  outbox: OutboxOptions;
  receiver: Receiver;
  longestHandlerMs(): number;
  onWay(way: Way): void;
  /** A coordinator says that this process holds the lease no more; asked, it says why. */
  onLeaseLost(): void;
  onTrouble(): void;
  logger: Logger;
}

/** A request without a reply yet. */
interface Waiting {
  outgoing: Outgoing;
  resolve(reply: Reply): void;
  reject(error: unknown): void;
}

/** A broker that restarts gets this long before messages go by HTTP: changing ways for every hiccup would cost more. */
const fallbackAfterMs = 1_500;
/** A component that has just registered may have to wait for its queues. */
const firstFallbackAfterMs = 4_000;

export class Messenger {
  readonly #options: MessengerOptions;
  readonly #outbox: Outbox;
  readonly #http: HttpSender;
  readonly #link: AmqpLink;
  readonly #waiting = new Map<string, Waiting>();
  #inbox: HttpInbox | undefined;
  /** Left for a session, though no coordinator has said that it gives it back. */
  #unreleased: HttpInbox | undefined;
  #sessionEnd = new AbortController();
  #fallback: NodeJS.Timeout | undefined;
  #way: Way = "none";
  #receives: "all" | "replies" | "nothing" = "all";
  #wasConnected = false;
  #highestEpoch = 0;
  #whenOpen: (() => void)[] = [];

  constructor(options: MessengerOptions) {
    this.#options = options;
    const { bridge, id, type, prefetch, incarnation, outbox, onLeaseLost, onTrouble, logger } = options;
    this.#outbox = new Outbox(outbox);
    this.#http = new HttpSender(bridge, id);
    this.#link = new AmqpLink({
      id,
      type,
      prefetch,
      incarnation,
      // What coordinators have taken is older than what the session would get: for this process, or for one before it.
      onReached: async () => {
        const inbox = (await this.#leaveInbox()) ?? (this.#wasConnected ? undefined : this.#makeInbox());
        if (inbox !== undefined) this.#unreleased = (await inbox.released()) ? undefined : inbox;
      },
      onMissing: () => this.#lookForQueues(),
      onMessage: (message, session) => this.#arrived(message, session),
      onReturned: (messageId) => this.#returned(messageId),
      onVoidRenewal: onLeaseLost,
      onSession: (session) => this.#sessionChanged(session),
      onFailed: (error) => this.#connectFailed(error),
      onTrouble,
      logger,
    });
  }

  get way(): Way {
    return this.#way;
  }

  /** Tells where the broker is, once that is known; undefined where the site offers none. */
  start(amqpUrl: string | undefined): void {
    const { transport } = this.#options;
    if (transport === "http" || (amqpUrl === undefined && transport === "auto")) this.#useHttp();
    else if (amqpUrl !== undefined) this.#link.connectTo(amqpUrl);
    if (this.#way === "none" && transport === "auto") this.#fallBackSoon(firstFallbackAfterMs);
  }

  /** Resolves when messages go one way or the other, or after `timeoutMs`. */
  async untilOpen(timeoutMs: number): Promise<void> {
    if (this.#way !== "none") return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#whenOpen.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  send(outgoing: Outgoing, timeoutMs: number): Promise<unknown> {
    return this.#outbox.send(outgoing, timeoutMs);
  }

  /**
   * Asks, and asks again by the same id whenever another way opens, until there is a reply.
   * @throws MusterError `deadline-exceeded` without a reply in time, `handler-failed` with the handler's reason,
   *   `too-many` when as many requests wait as the outbox may hold.
   */
  request(outgoing: Outgoing, timeoutMs: number): Promise<Reply> {
    const { messagesMax } = this.#options.outbox;
    if (this.#waiting.size >= messagesMax) {
      return Promise.reject(new MusterError("too-many", `${messagesMax} requests wait for their replies already`));
    }
    return new Promise((resolve, reject) => {
      const { id, name, to } = outgoing;
      const timer = setTimeout(() => {
        const told = `no reply to "${name}" from ${JSON.stringify(to)} within ${timeoutMs} ms`;
        waiting.reject(new MusterError("deadline-exceeded", told));
      }, timeoutMs);
      const waiting: Waiting = {
        outgoing,
        resolve: (reply) => {
          this.#waiting.delete(id);
          clearTimeout(timer);
          resolve(reply);
        },
        reject: (error) => {
          this.#waiting.delete(id);
          clearTimeout(timer);
          reject(error);
        },
      };
      this.#waiting.set(id, waiting);
      this.#ask(waiting);
    });
  }

  /** @returns false when there is no broker to take it. */
  renew(renewal: { id: string; incarnation: number; health?: Health }): boolean {
    return this.#link.session?.renew(Buffer.from(JSON.stringify(renewal))) ?? false;
  }

  /** Takes no more messages, where `replies` is not false except those; sending and settling go on. */
  async stopReceiving({ replies = true } = {}): Promise<void> {
    if (this.#receives !== "nothing") this.#receives = replies ? "replies" : "nothing";
    clearTimeout(this.#fallback);
    await Promise.all([this.#inbox?.stop(), this.#stopConsuming(this.#link.session)]);
  }

  async #stopConsuming(session: AmqpSession | undefined): Promise<void> {
    await session?.stopConsuming({ replies: this.#receives === "replies" });
  }

  /** Waits up to `drainMs` for what is still to be sent. */
  async close(drainMs: number): Promise<void> {
    await this.stopReceiving();
    const leaving = this.#leaveInbox().then((inbox) => inbox?.giveBack());
    await Promise.all([leaving, this.#outbox.close(this.#way === "none" ? 0 : drainMs)]);
    this.#http.close();
    await this.#link.close();
    for (const { reject } of [...this.#waiting.values()]) {
      reject(new MusterError("unreachable", "the component closed before the reply came"));
    }
  }

  #sessionChanged(session: AmqpSession | undefined): void {
    const { id, type } = this.#options;
    this.#sessionEnd.abort();
    if (session !== undefined) {
      this.#sessionEnd = new AbortController();
      this.#wasConnected = true;
      clearTimeout(this.#fallback);
      this.#fallback = undefined;
      if (this.#receives !== "all") void this.#stopConsuming(session);
      void this.#giveBack(this.#sessionEnd.signal);
      this.#outbox.use(new AmqpSender(session, { id, type }, this.#http));
      this.#go("amqp");
      return;
    }
    this.#outbox.use(undefined);
    this.#go("none");
    if (this.#options.transport === "auto") this.#fallBackSoon(fallbackAfterMs);
  }

  async #giveBack(signal: AbortSignal): Promise<void> {
    const inbox = (await this.#leaveInbox()) ?? this.#unreleased;
    await inbox?.giveBackAtLast(signal);
    if (!signal.aborted) this.#unreleased = undefined;
  }

  /** Polls no more. @returns the inbox that was polled, whose messages are still to be given back. */
  async #leaveInbox(): Promise<HttpInbox | undefined> {
    const inbox = this.#inbox;
    this.#inbox = undefined;
    await inbox?.stop();
    return inbox;
  }

  /** Giving an inbox back, also one that nobody polls, has the coordinator look whether the queues stand. */
  #lookForQueues(): void {
    void this.#makeInbox().giveBack();
  }

  #fallBackSoon(afterMs: number): void {
    this.#fallback ??= setTimeout(() => this.#fallBack(), afterMs);
  }

  #fallBack(): void {
    clearTimeout(this.#fallback);
    this.#fallback = undefined;
    const { transport } = this.#options;
    if (transport === "auto" && this.#way === "none" && this.#receives === "all") this.#useHttp();
  }

  #connectFailed(error: unknown): void {
    // Its queues are about to be declared.
    const isMissing = (error as { code?: number }).code === 404;
    if (!isMissing && !this.#wasConnected) this.#fallBack();
    // It had been left for the session.
    if (this.#way === "http" && this.#inbox === undefined && this.#receives === "all") this.#openInbox();
  }

  #useHttp(): void {
    if (this.#way === "http") return;
    this.#openInbox();
    this.#outbox.use(this.#http);
    this.#go("http");
  }

  #openInbox(): void {
    this.#inbox = this.#makeInbox();
    this.#inbox.start();
  }

  #makeInbox(): HttpInbox {
    const { bridge, id, receiver, prefetch, longestHandlerMs, incarnation, onLeaseLost, logger } = this.#options;
    const asked = { bridge, id, receiver, prefetch, longestHandlerMs, incarnation, logger };
    return new HttpInbox({ ...asked, onSuperseded: onLeaseLost });
  }

  #go(way: Way): void {
    if (this.#way === way) return;
    this.#way = way;
    this.#options.onWay(way);
    if (way === "none") return;
    for (const resolve of this.#whenOpen.splice(0)) resolve();
    // Whoever handled one already tells its reply again.
    for (const waiting of this.#waiting.values()) this.#ask(waiting);
  }

  #ask(waiting: Waiting): void {
    const { outgoing } = waiting;
    const { session } = this.#link;
    if (session !== undefined) {
      const { id, type } = this.#options;
      const { exchange, key, mandatory } = routeOf(outgoing, { id, type });
      const options = publishOptions(draftOf(outgoing, id, mandatory), Date.now());
      session.publishUnconfirmed(exchange, key, outgoing.content, options);
    } else if (this.#way === "http") {
      this.#askBridge(waiting);
    }
  }

  #askBridge({ outgoing, resolve, reject }: Waiting): void {
    const settled = (sent: Sent) => {
      if (!this.#waiting.has(outgoing.id)) return;
      if (!("error" in sent)) resolve(sent.reply ?? { from: undefined, body: undefined });
      else if (!sent.isLost) reject(sent.error);
    };
    this.#http.post(outgoing, settled, () => this.#waiting.has(outgoing.id));
  }

  /** This site's broker knows no such target; the bridge knows the registry. */
  #returned(messageId: string): void {
    const waiting = this.#waiting.get(messageId);
    if (waiting !== undefined) this.#askBridge(waiting);
  }

  #arrived(raw: ConsumeMessage, session: AmqpSession): void {
    const arrived = readArrived(raw);
    // Replies come without acknowledgement: nobody else could use them.
    const isReply = raw.fields.consumerTag === queues.replies(this.#options.id);
    if (typeof arrived === "string") {
      const told = `the reply cannot be read: ${arrived}`;
      this.#options.logger.warn({ reason: arrived, messageId: raw.properties.messageId }, "a malformed message");
      if (!isReply) session.reject(raw);
      else this.#answered(raw.properties.correlationId)?.reject(new MusterError("handler-failed", told));
      return;
    }
    switch (arrived.kind) {
      case "command":
      case "request":
      case "broadcast": {
        const { id, type, receiver } = this.#options;
        receiver.deliver(new AmqpDelivery(session, raw, arrived, { id, type }));
        return;
      }
      case "reply":
        this.#replied(arrived);
        break;
      case "signal":
        this.#signalled(arrived);
        break;
      default:
        this.#options.logger.debug({ kind: arrived.kind }, "a message that is not for components");
    }
    if (!isReply) session.ack(raw);
  }

  /** @returns undefined when nobody waits: a second reply, or one after the deadline. */
  #answered(correlationId: unknown): Waiting | undefined {
    return typeof correlationId === "string" ? this.#waiting.get(correlationId) : undefined;
  }

  #replied({ correlationId, message, error, reason }: Arrived): void {
    const waiting = this.#answered(correlationId);
    if (waiting === undefined) return;
    if (error === undefined) {
      waiting.resolve({ from: message.from, body: message.body });
      return;
    }
    const code = isErrorCode(error) ? error : "handler-failed";
    waiting.reject(new MusterError(code, `${message.from ?? "the target"}: ${reason ?? "its handler failed"}`));
  }

  #signalled({ epoch, message }: Arrived): void {
    // From a leader that has been replaced.
    if (epoch < this.#highestEpoch) return;
    this.#highestEpoch = epoch;
    const { kind, revision } = (message.body ?? {}) as Settings;
    if (kind === "config" && typeof revision === "string") this.#options.receiver.signal(revision);
  }
}
