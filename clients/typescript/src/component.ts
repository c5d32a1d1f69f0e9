/** A component: what `connect` gives, one method for each thing that it can do. */
import { setMaxListeners } from "node:events";
import { MusterError } from "../../../config-db/errors.ts";
import type { Settings, Target } from "../../../config-db/generated/types.ts";
import { backoffMs, pause } from "./backoff.ts";
import { Bridge } from "./bridge.ts";
import { Configuration } from "./configuration.ts";
import { type ComponentRecord, Directory, type DiscoveryQuery, type MembershipChange, type Pick } from "./directory.ts";
import { DiskCache } from "./disk-cache.ts";
import { Dispatcher, type Handler, type HandlerOptions } from "./dispatcher.ts";
import { type Gathered, gather } from "./gather.ts";
import { type AmqpAddress, type MemberState, Membership } from "./membership.ts";
import type { Outgoing } from "./message.ts";
import { Messenger, type Way } from "./messenger.ts";
import type { ResolvedOptions } from "./options.ts";
import { makeOutgoing, type RequestOptions, type SendMethod, type SendOptions, timeoutOf } from "./outgoing.ts";
import type { PickStrategy } from "./picking.ts";
import { type Event, followSubscription } from "./subscription.ts";
import { tell } from "./thrown.ts";
import { type Sent, TrackedCommand } from "./tracked-command.ts";
import { validateBySchema } from "./validation.ts";

const sendTimeoutDefaultMs = 30_000;
const drainMs = 10_000;
/** `connect` waits that long for messages to flow; after that they start to when they can. */
const openTimeoutMs = 5_000;

export class Component<S extends object = Settings> {
  readonly id: string;
  readonly type: string;
  readonly config: Configuration<S>;
  readonly #options: ResolvedOptions<S>;
  readonly #bridge: Bridge;
  readonly #membership: Membership;
  readonly #directory: Directory;
  readonly #dispatcher: Dispatcher;
  readonly #messenger: Messenger;
  readonly #ending = new AbortController();
  readonly #stateListeners = new Set<(state: MemberState) => void>();
  #closing: Promise<void> | undefined;

  /** Use `connect`. */
  constructor(options: ResolvedOptions<S>) {
    const { id, type, urls, token, logger, prefetch, transport, outbox } = options;
    this.id = id;
    this.type = type;
    this.#options = options;
    // Every gathering and subscription listens to it: that is no leak.
    setMaxListeners(0, this.#ending.signal);
    this.#bridge = new Bridge({ urls, token });
    const bridge = this.#bridge;
    const given = options.validate;
    const validate =
      given === false ? (settings: Settings) => settings as S : (given ?? validateBySchema<S>(bridge, type, logger));
    const cache = new DiskCache(options.cacheFile, logger);
    this.config = new Configuration<S>({ bridge, id, validate, cache, logger });
    this.#directory = new Directory(bridge, logger);
    this.#dispatcher = new Dispatcher(logger);
    this.#messenger = new Messenger({
      bridge,
      id,
      type,
      transport,
      prefetch,
      outbox,
      receiver: {
        deliver: (delivery) => this.#dispatcher.deliver(delivery),
        signal: (revision) => this.config.signalled(revision),
      },
      incarnation: () => this.incarnation,
      longestHandlerMs: () => this.#dispatcher.longestTimeoutMs,
      onWay: (way) => this.#wayChanged(way),
      onLeaseLost: () => this.#membership.check(),
      onTrouble: () => this.#membership.registerAgain(),
      logger,
    });
    this.#membership = new Membership({
      bridge,
      id,
      registration: options.registration,
      health: options.health,
      renewByMessage: (renewal) => this.#messenger.renew(renewal),
      onRegistered: ({ messaging }) => this.#registered(messaging.amqp),
      onState: (state) => this.#stateChanged(state),
      logger,
    });
  }

  /** Called by `connect`, once. @throws as `connect` does. */
  async start(): Promise<void> {
    const { found, amqp } = await this.config.restore();
    try {
      await this.#join(found);
      if (this.state === "offline") this.#messenger.start(amqp?.url);
      this.#membership.start();
      this.#dispatcher.start();
      await this.#messenger.untilOpen(openTimeoutMs);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** `offline`: no coordinator answers; the component works on with what it knows. */
  get state(): MemberState {
    return this.#membership.state;
  }

  /** The way that messages take now. */
  get way(): Way {
    return this.#messenger.way;
  }

  /** Rises with every new process under this id; undefined before the first registration. */
  get incarnation(): number | undefined {
    return this.#membership.registered?.incarnation;
  }

  /** Calls `listener` at every change of `state`. */
  onState(listener: (state: MemberState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => this.#stateListeners.delete(listener);
  }

  /** The components that fit, from memory. @see Directory.discover */
  discover(query: DiscoveryQuery = {}): Promise<readonly ComponentRecord[]> {
    return this.#directory.discover(query);
  }

  /** Calls `handler` with the components that fit now and at every change, until the returned function is called. */
  watch(query: DiscoveryQuery, handler: (change: MembershipChange) => void): () => void {
    return this.#directory.watch(query, handler);
  }

  /** One of those that fit, to use once. @throws MusterError `no-such-target` when nobody does. */
  pick(query: DiscoveryQuery, options: { strategy?: PickStrategy } = {}): Promise<Pick> {
    return this.#directory.pick(query, options);
  }

  /**
   * Runs `handler` for messages of this name: commands, requests and broadcasts alike. What it returns is the reply.
   * @throws MusterError `invalid-request` when the name has a handler already.
   */
  handle<B = unknown>(name: string, handler: Handler<B>, options: HandlerOptions = {}): () => void {
    return this.#dispatcher.handle(name, handler as Handler, options);
  }

  /**
   * Sends a command. Resolves when the broker has it on disk, or a coordinator has taken it: it will be delivered even
   * if the target is down now. With `tracked` the coordinator keeps what became of it.
   * @throws MusterError `no-such-target`, `too-many` (the outbox or the target's queue is full), `too-large`,
   *   `deadline-exceeded` (nothing took it in time; whether it arrives is unknown).
   */
  command(to: Target, name: string, body: unknown, options: SendOptions & { tracked: true }): Promise<TrackedCommand>;
  command(to: Target, name: string, body?: unknown, options?: SendOptions & { tracked?: false }): Promise<Sent>;
  async command(
    to: Target,
    name: string,
    body?: unknown,
    options: SendOptions & { tracked?: boolean } = {},
  ): Promise<Sent> {
    const outgoing = this.#outgoing("command", to, name, body, options);
    if (options.tracked === true) outgoing.tracked = true;
    await this.#messenger.send(outgoing, options.sendTimeoutMs ?? sendTimeoutDefaultMs);
    return options.tracked === true ? new TrackedCommand(this.#bridge, outgoing.id) : { id: outgoing.id };
  }

  /**
   * Sends to all of a type or to everyone. A `hint` is kept in memory only: faster, and lost when the broker restarts.
   * @throws as `command`.
   */
  async broadcast(
    to: { type: string } | { all: true },
    name: string,
    body?: unknown,
    options: SendOptions & { hint?: boolean } = {},
  ): Promise<Sent> {
    const outgoing = this.#outgoing("broadcast", to, name, body, options);
    outgoing.persistent = options.hint !== true;
    await this.#messenger.send(outgoing, options.sendTimeoutMs ?? sendTimeoutDefaultMs);
    return { id: outgoing.id };
  }

  /**
   * Asks one component, or any one of a type, and resolves with what its handler returned.
   * @throws MusterError `handler-failed` with the handler's reason, `deadline-exceeded`, `no-such-target`.
   */
  async request<R = unknown>(
    to: { component: string } | { any: string },
    name: string,
    body?: unknown,
    options: RequestOptions = {},
  ): Promise<R> {
    const timeoutMs = timeoutOf(options);
    const outgoing = this.#outgoing("request", to, name, body, { ...options, deadlineMs: timeoutMs });
    // Any one of a type may come up later and still be in time; one component's requests do not outlive the broker.
    outgoing.persistent = "any" in to;
    const reply = await this.#messenger.request(outgoing, timeoutMs);
    return reply.body as R;
  }

  /** Asks all of a type, or everyone, and resolves with the replies that came in time and the list of who is missing. */
  async gather(
    to: { type: string } | { all: true },
    name: string,
    body?: unknown,
    options: RequestOptions = {},
  ): Promise<Gathered> {
    const outgoing = this.#outgoing("gather", to, name, body, options);
    return await gather(this.#bridge, this.id, outgoing, timeoutOf(options), this.#ending.signal);
  }

  /** Tells whoever subscribed; nobody has to. Kept in memory only. @throws as `command`. */
  async event(name: string, body?: unknown, options: SendOptions = {}): Promise<void> {
    const outgoing = this.#outgoing("event", undefined, name, body, options);
    outgoing.persistent = false;
    await this.#messenger.send(outgoing, options.sendTimeoutMs ?? sendTimeoutDefaultMs);
  }

  /**
   * Calls `handler` with events whose `<type>.<id>.<event>` fits `pattern` (`*` one word, `#` any number, at most twice), from now
   * on until the returned function is called. A pattern that is refused is logged. Events that come while no coordinator can be reached are not made up for.
   */
  subscribe(pattern: string, handler: (event: Event) => void): () => void {
    const stop = new AbortController();
    const end = () => {
      this.#ending.signal.removeEventListener("abort", end);
      stop.abort();
    };
    this.#ending.signal.addEventListener("abort", end);
    void followSubscription(this.#bridge, pattern, handler, stop.signal, this.#options.logger);
    return end;
  }

  /** A command that was tracked, by its id: `state()` and `finished()` of it, also in a later process. */
  trackedCommand(id: string): TrackedCommand {
    return new TrackedCommand(this.#bridge, id);
  }

  /**
   * Takes no more messages and no more changes of configuration, lets handlers of both end (10 s at most), sends what waits
   * (10 s at most), and leaves: `gone` at once where `deregister` is not false, else when the lease expires. Its queues are
   * kept for its return. May be called twice.
   *
   * Inside a handler call it without awaiting it: that handler would wait for itself, for those 10 s.
   */
  close({ deregister = true } = {}): Promise<void> {
    this.#closing ??= this.#close(deregister);
    return this.#closing;
  }

  async #close(deregister: boolean): Promise<void> {
    try {
      // What is answered under a superseded id is for the newer process.
      await this.#messenger.stopReceiving({ replies: this.state !== "superseded" });
      await Promise.all([this.#dispatcher.drain(drainMs), this.config.close(drainMs)]);
      this.#directory.close();
      this.#ending.abort();
      await this.#messenger.close(drainMs);
    } finally {
      await this.#membership.close(deregister);
    }
  }

  /** Registers and reads the configuration; with one from disk a coordinator may be away, without it is waited for. */
  async #join(hasConfiguration: boolean): Promise<void> {
    const giveUpAtMs = performance.now() + this.#options.connectTimeoutMs;
    for (let attempt = 0; ; attempt += 1) {
      try {
        await this.#membership.register();
        await this.config.refresh();
        return;
      } catch (error) {
        const isAway = error instanceof MusterError && (error.status === 503 || error.code === "internal");
        if (!isAway) throw error;
        if (hasConfiguration) {
          this.#options.logger.warn({ error, ageMs: this.config.ageMs }, "offline: working with what is known");
          return;
        }
        if (performance.now() > giveUpAtMs) throw error;
        await pause(backoffMs(attempt, { firstMs: 100, maxMs: 2_000 }));
      }
    }
  }

  #registered(amqp: AmqpAddress | undefined): void {
    this.config.rememberBroker(amqp);
    this.#messenger.start(amqp?.url);
    this.config.reportAgain();
  }

  #stateChanged(state: MemberState): void {
    const { logger } = this.#options;
    for (const listener of this.#stateListeners) {
      void tell(listener, state, (error) => logger.error({ error, state }, "a listener to the state threw"));
    }
    if (state === "online") void this.config.refresh().catch(() => undefined);
    // The newer process does the work now; taking its messages would only be in its way.
    if (state === "superseded") void this.close({ deregister: false });
  }

  #wayChanged(way: Way): void {
    this.#options.logger.info({ way }, "messages take another way");
    if (way === "none") return;
    this.config.follow(way === "amqp" ? "signals" : "stream");
    // A signal may have been missed in between, and the lease as well.
    if (this.config.isKnown) void this.config.refresh().catch(() => undefined);
    this.#membership.check();
  }

  #outgoing(method: SendMethod, to: Target | undefined, name: string, body: unknown, options: SendOptions): Outgoing {
    if (this.#closing !== undefined) throw new MusterError("unreachable", "the component is closed");
    return makeOutgoing(method, to, name, body, options);
  }
}
