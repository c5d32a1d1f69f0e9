/**
 * Passes a component that polls from one coordinator of the site to another. Behind a load balancer the next poll reaches
 * any of them. The former one has messages ready, and given back to the queue they would come after those that the broker
 * has under way, and each time count as a delivery: so a coordinator that begins asks whoever consumes already, which
 * hands out what it has ready, or lets go. While anything is in hand there, or came lately, it consumes on, also for who polls
 * elsewhere: the broker puts back what is under way to a cancelled consumer in any order, and to a closed channel only a moment
 * later. Who polls no more, or lost an answer, has all of them let go: for that each coordinator knows the others.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { ConsumeMessage, Options } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { exchanges } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type Asking, type Inbox, inboxLimits, type Wanted, type WantedElsewhere } from "./inbox.ts";
import type { InboxMessage } from "./inbox-deliveries.ts";
import { type Inboxes, tokenOf } from "./inboxes.ts";
import { OwnQueue } from "./own-queue.ts";
import type { PublishOutcome } from "./publisher.ts";

export interface HandoverOptions {
  broker: Broker;
  inboxes: Inboxes;
  logger: Logger;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
}

/**
 * What coordinators tell each other. `token` is whose question it is, `withdrawn` the id of one that nobody waits for any more;
 * `consumes` says who had nothing in time and goes on; `back` are deliveries that came too late. `present` is the token of one
 * that is there, and wants to know who else is when it `greets`.
 */
type Told =
  | ({ component: string; token: string } & WantedElsewhere)
  | { component: string; token: string; release: true }
  | { component: string; withdrawn: string }
  | { component: string; messages: InboxMessage[]; consumes: boolean }
  | { component: string; back: string[] }
  | { present: string; greets: boolean };

type Answer = InboxMessage[] | "consumes" | "none" | "lost";

const prefetch = 100;
/**
 * How long another coordinator's answer is awaited: for as long as who polls waits anyway, within these. Who goes on without
 * it is given what is younger than what that one has; and one that froze, the broker ends the connection of within 12 s.
 */
const answerMs = { min: 500, max: 5_000 };
/** How long a poll waits for this coordinator's own queue, to which the others answer. */
const reachMaxMs = 2_000;
/** How long after a connection was lost a busy broker may put back what its channels had, although it has deleted its queue. */
const lossMs = 500;
/** A coordinator whose queue is away for longer has ended; one that lost its connection has another within some seconds. */
const forgetAfterMs = 60_000;
/** Below what a client waits for the answer to its `DELETE`, or to its last poll. */
const releaseMaxMs = 1_000;
const tokenPattern = /^[0-9a-f]{8}$/;
/** Anyone may say that he is there; a site has a few coordinators. */
const othersMax = 100;

export class Handover {
  readonly #options: HandoverOptions;
  readonly #asked = new Map<string, (answer: Answer) => void>();
  /** What ends others' questions, by their ids, that may still be withdrawn: the waiting, or what was answered. */
  readonly #answering = new Map<string, () => void>();
  /**
   * Tokens of the site's other coordinators, and since when their queues are away: those that have lost their connection hold
   * nothing, and are to be asked again as soon as they have another one.
   */
  readonly #others = new Map<string, number | undefined>();
  readonly #told: OwnQueue;
  #lostAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: HandoverOptions) {
    this.#options = options;
    const { broker, inboxes, logger, ready } = options;
    this.#told = new OwnQueue({
      ...{ broker, name: "handover", exchange: exchanges.requests, ready, prefetch },
      keys: () => [keyOf(), keyOf(inboxes.token)],
      // Each in a turn of its own: what a question was given that is withdrawn is back before the next one is answered.
      onMessage: (message) =>
        void setImmediate(() =>
          this.#take(message).catch((error) => logger.warn({ error: String(error) }, "an inbox was not handed over")),
        ),
      // Of two that begin at a time the later one is heard by the other. Again: a greeting, or the answer to it, may be lost.
      onBound: async () => {
        await this.#tell(keyOf(), { present: inboxes.token, greets: true });
      },
      // Answers that were in it are lost.
      onLost: () => {
        this.#lostAtMs = performance.now();
        for (const answered of [...this.#asked.values()]) answered("lost");
      },
    });
  }

  start(): void {
    this.#told.start();
  }

  async close(): Promise<void> {
    await this.#told.close();
  }

  /** By what others ask: another channel after each loss of the connection. */
  get reached(): unknown {
    return this.#told.current;
  }

  /** Tokens of the site's other coordinators. */
  get others(): ReadonlySet<string> {
    return new Set(this.#others.keys());
  }

  /**
   * What other coordinators have ready for the component, at most `max` unless it is asked for the `last` time. None when nobody
   * else consumes, or whoever did lets go; undefined when one goes on and had none in time.
   * @throws MusterError `broker-unavailable` when they cannot be asked now, an answer was lost, or one does not answer who asks
   *   `again` or for the `last` time.
   */
  async ask(component: string, wanted: Wanted, { waitMs, signal }: Asking): Promise<InboxMessage[] | undefined> {
    const polledMs = Math.min(answerMs.max, Math.max(answerMs.min, Math.ceil(waitMs)));
    // The other half is for the way there and back.
    const { token } = this.#options.inboxes;
    const question = { component, token, ...wanted, waitMs: Math.min(waitMs, polledMs / 2) };
    const timeoutMs = wanted.last === true ? releaseMaxMs : polledMs;
    if (this.#others.size > 0) await this.#told.ready(reachMaxMs);
    const putBackMs = untilPutBackMs(this.#lostAtMs);
    if (putBackMs > 0) await delay(putBackMs);
    // What is asked for who has gone meanwhile would be overtaken by what is asked for the next one.
    if (signal.aborted) return [];
    const others = [...this.#others.keys()];
    const asked = others.map((other) => this.#question(other, question, { timeoutMs, signal }));
    const isOwed = wanted.again === true || wanted.last === true;
    const messages: InboxMessage[] = [];
    let missing: unknown;
    let isConsumed = false;
    for (const ended of await Promise.allSettled(asked)) {
      if (ended.status === "rejected") missing ??= ended.reason;
      else if (ended.value === "lost") missing ??= unknown("its answer was lost with the connection to the broker");
      else if (ended.value === "consumes") isConsumed = true;
      else if (ended.value !== "none") messages.push(...ended.value);
      else if (isOwed) missing ??= unanswered(timeoutMs);
      else this.#options.logger.debug({ component }, "another coordinator does not say what it has ready");
    }
    // What one has handed out for an answer that was lost would be overtaken: who polls again is given it.
    if (missing !== undefined) {
      await this.#giveBack(component, messages);
      throw missing;
    }
    // Nobody is given what came for who has gone meanwhile, or is too much.
    if (wanted.last !== true) await this.#giveBack(component, messages.splice(signal.aborted ? 0 : wanted.max));
    return messages.length === 0 && isConsumed ? undefined : messages;
  }

  /**
   * Resolves when no coordinator of the site holds anything of the component's inbox any more: what was taken and not settled
   * is in its queues again.
   * @throws MusterError `broker-unavailable`: this one holds nothing, of another one that is not known.
   */
  async release(component: string): Promise<void> {
    const question = { component, token: this.#options.inboxes.token, release: true } as const;
    const others = [...this.#others.keys()].map((other) => this.#releaseAt(other, question));
    const ends = await Promise.allSettled([this.#options.inboxes.drop(component), ...others]);
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    // Its messages are in their queues by the loss of the connection; but there may be coordinators that it has not heard of.
    if (this.#told.current === undefined)
      throw unknown("this coordinator has no connection to the broker, by which it asks the others");
  }

  /** @throws MusterError `broker-unavailable` without an answer. */
  async #releaseAt(other: string, question: Extract<Told, { release: true }>): Promise<void> {
    const answer = await this.#question(other, question, { timeoutMs: releaseMaxMs });
    if (answer === "none" || answer === "lost") throw unanswered(releaseMaxMs);
  }

  /**
   * @returns what it answers, none when its queue is away: so is the connection by which it consumes; `none` when no answer came
   * in time or before `signal` aborted; `lost` with this one's own queue.
   * @throws MusterError `broker-unavailable`: it is not known whether it was asked.
   */
  async #question(
    other: string,
    told: Extract<Told, { token: string }>,
    { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal },
  ): Promise<Answer> {
    const id = randomUUID();
    // Asked twice, or for nobody, it hands out what is given back to it only after it has handed out what comes next.
    const ended = new AbortController();
    return await new Promise<Answer>((resolve, reject) => {
      const end = (answer: Answer) => {
        ended.abort();
        clearTimeout(timer);
        signal?.removeEventListener("abort", none);
        this.#asked.delete(id);
        resolve(answer);
        // It would take what comes next for nobody; and what it has answered is older than what it hands out until it hears of that.
        if (answer === "none" || answer === "lost")
          this.#tell(keyOf(other), { component: told.component, withdrawn: id }).catch(() => undefined);
      };
      const none = () => end("none");
      const timer = setTimeout(none, timeoutMs);
      signal?.addEventListener("abort", none);
      this.#asked.set(id, end);
      const properties = { messageId: id, expiration: timeoutMs, mandatory: true };
      this.#tell(keyOf(other), told, properties, ended.signal).then((outcome) => {
        this.#note(other, outcome !== "unroutable");
        if (outcome !== "unroutable") return;
        // That is its answer, which a short poll is not to take for none.
        clearTimeout(timer);
        setTimeout(() => end([]), untilPutBackMs(this.#others.get(other)));
      }, reject);
    });
  }

  #note(other: string, isThere: boolean): void {
    const sinceMs = this.#others.get(other) ?? performance.now();
    if (isThere) this.#others.set(other, undefined);
    else if (performance.now() - sinceMs < forgetAfterMs) this.#others.set(other, sinceMs);
    else this.#others.delete(other);
  }

  async #take({ content, properties }: ConsumeMessage): Promise<void> {
    const { inboxes } = this.#options;
    const told: Told = JSON.parse(content.toString("utf8"));
    if ("present" in told) {
      await this.#meet(told);
      return;
    }
    const { component } = told;
    const inbox = inboxes.existing(component);
    if ("back" in told) inbox?.takeBack(told.back);
    else if ("withdrawn" in told) this.#answering.get(told.withdrawn)?.();
    else if ("messages" in told) {
      const asked = this.#asked.get(properties.correlationId);
      if (asked !== undefined) asked(told.consumes ? "consumes" : told.messages);
      else await this.#giveBack(component, told.messages);
    } else if (told.token !== inboxes.token) {
      const answer = await this.#answer(told, inbox, properties.messageId);
      const messages = answer ?? [];
      const given = messages.map(({ delivery }) => delivery);
      const takeBack = () => inbox?.takeBack(given);
      if (given.length > 0) this.#mayWithdraw(properties.messageId, takeBack);
      const answered = { component, messages, consumes: answer === undefined };
      const options = { messageId: randomUUID(), correlationId: properties.messageId, mandatory: true };
      const outcome = await this.#tell(keyOf(told.token), answered, options).catch(() => "lost");
      // Whoever asked has lost its connection meanwhile.
      if (outcome !== "routed") takeBack();
    }
  }

  /** @returns undefined when the inbox goes on consuming and had nothing in time. */
  async #answer(
    told: Extract<Told, { token: string }>,
    inbox: Inbox | undefined,
    id: string,
  ): Promise<InboxMessage[] | undefined> {
    if ("release" in told) await this.#options.inboxes.drop(told.component);
    if ("release" in told || inbox === undefined || !isPoll(told)) return [];
    const answering = new AbortController();
    this.#mayWithdraw(id, () => answering.abort());
    return await inbox.handOver(told, answering.signal);
  }

  #mayWithdraw(id: string, withdraw: () => void): void {
    this.#answering.set(id, withdraw);
    // A question is answered in half of the time that its answer is awaited.
    setTimeout(() => this.#answering.delete(id), 2 * answerMs.max).unref();
  }

  /** To the coordinators that handed them out. */
  async #giveBack(component: string, messages: InboxMessage[]): Promise<void> {
    const byToken = new Map<string | undefined, string[]>();
    for (const { delivery } of messages) {
      const token = tokenOf(delivery);
      byToken.set(token, [...(byToken.get(token) ?? []), delivery]);
    }
    for (const [token, back] of byToken) await this.#tell(keyOf(token), { component, back });
  }

  async #meet({ present, greets }: Extract<Told, { present: string }>): Promise<void> {
    const { token } = this.#options.inboxes;
    if (present === token || !tokenPattern.test(present) || this.#others.size >= othersMax) return;
    this.#others.set(present, undefined);
    if (greets) await this.#tell(keyOf(present), { present: token, greets: false });
  }

  async #tell(key: string, told: Told, properties: Options.Publish = {}, once?: AbortSignal): Promise<PublishOutcome> {
    const content = Buffer.from(JSON.stringify(told));
    const options = { ...properties, persistent: false };
    const publication = { exchange: exchanges.requests, key, content, options, timeoutMs: answerMs.max };
    return await this.#options.broker.publish(once === undefined ? publication : { ...publication, once });
  }
}

function untilPutBackMs(lostAtMs = performance.now()): number {
  return Math.max(0, lostAtMs + lossMs - performance.now());
}

function unanswered(timeoutMs: number): MusterError {
  return unknown(`another coordinator of the site did not answer in ${timeoutMs} ms`);
}

function unknown(reason: string): MusterError {
  const told = `it is not known whether all coordinators have given the inbox back: ${reason}`;
  return new MusterError("broker-unavailable", told, { retryAfterMs: releaseMaxMs });
}

/** Anyone may publish here. */
function isPoll({ max, visibilityMs, waitMs = 0 }: WantedElsewhere): boolean {
  const isWithin = (value: number, { min, max }: { min: number; max: number }) =>
    Number.isInteger(value) && value >= min && value <= max;
  const isBounded = isWithin(max, inboxLimits.max) && isWithin(visibilityMs, inboxLimits.visibilityMs);
  return isBounded && Number.isFinite(waitMs) && waitMs <= answerMs.max;
}

/** @param token of one coordinator; not given: all. No component's id has a colon. */
function keyOf(token = ""): string {
  return `handover:${token}`;
}
