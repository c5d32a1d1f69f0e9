/** Discovery from a local copy that a stream keeps current, and that stays when no coordinator answers. */
import { LRUCache } from "lru-cache";
import { MusterError } from "../../../config-db/errors.ts";
import type { ComponentDocument } from "../../../config-db/generated/types.ts";
import { type Bridge, unreachable } from "./bridge.ts";
import { followEvents, type StreamEvent } from "./event-stream.ts";
import type { Logger } from "./logger.ts";
import { afterFailure, afterSuccess, choose, type Experience, inexperienced, type PickStrategy } from "./picking.ts";
import { tell } from "./thrown.ts";

/** A component as discovery tells it. `unverified`: its site is not heard, so nobody knows. */
export type ComponentRecord = Omit<
  ComponentDocument,
  "_id" | "_rev" | "_deleted" | "kind" | "schemaVersion" | "state"
> & {
  state: "up" | "expired" | "gone" | "unverified";
  lastKnownState?: "up" | "expired" | "gone";
};

export interface DiscoveryQuery {
  type?: string;
  subsystem?: string;
  site?: string;
  /** All of them. */
  tags?: readonly string[];
  /** Default `up`. Those whose site is not heard stay listed by their last known state. */
  state?: "up" | "expired" | "gone" | "unverified" | "any";
  /** A component that reports none is passing. */
  health?: "passing" | "warning" | "failing";
  /** Components whose metadata has these values. */
  metadata?: Record<string, string | number | boolean>;
}

export type MembershipChange = {
  /** `reset`: the list stands as `components` now, whatever was told before. */
  kind: "reset" | "up" | "changed" | "expired" | "gone" | "removed" | "unverified";
  /** The one that changed; absent for `reset`. */
  component?: ComponentRecord;
  /** All that fit the query now. */
  components: readonly ComponentRecord[];
};

/** A component to use once. Exactly one of the two is called when the use has ended; further calls do nothing. */
export interface Pick {
  component: ComponentRecord;
  /** It worked. */
  release(): void;
  /** It did not: the component is skipped for a while, longer each time in a row. */
  fail(): void;
}

/** Queries followed at a time. The one asked longest ago is dropped; asking it again opens it again. */
const queriesMax = 64;
const firstAnswerTimeoutMs = 5_000;
const experiencesMax = 10_000;

export class Directory {
  readonly #bridge: Bridge;
  readonly #logger: Logger;
  readonly #views = new LRUCache<string, View>({ max: queriesMax, dispose: (view) => view.drop() });
  readonly #watched = new Set<View>();
  readonly #experiences = new LRUCache<string, Experience>({ max: experiencesMax });
  readonly #turns = new LRUCache<string, number>({ max: queriesMax });

  constructor(bridge: Bridge, logger: Logger) {
    this.#bridge = bridge;
    this.#logger = logger;
  }

  /**
   * The components that fit, from memory: only the first call of a query waits for a coordinator. While none answers,
   * the list is the last one known.
   * @throws MusterError `unreachable` when a query is new and no coordinator answers within 5 s.
   */
  async discover(query: DiscoveryQuery = {}): Promise<readonly ComponentRecord[]> {
    return await this.#view(query).list();
  }

  /** Calls `handler` with the list now and with every change of it, until the function it returns is called. */
  watch(query: DiscoveryQuery, handler: (change: MembershipChange) => void): () => void {
    const view = this.#view(query);
    this.#watched.add(view);
    const stop = view.watch(handler);
    return () => {
      stop();
      if (view.watchers === 0) this.#watched.delete(view);
    };
  }

  /** @throws MusterError `no-such-target` when nobody fits. */
  async pick(query: DiscoveryQuery, { strategy = "round-robin" as PickStrategy } = {}): Promise<Pick> {
    const candidates = await this.discover(query);
    const key = keyOf(query);
    const turn = this.#turns.get(key) ?? 0;
    this.#turns.set(key, turn + 1);
    const component = choose(candidates, (id) => this.#experience(id), { strategy, turn, nowMs: performance.now() });
    if (component === undefined) {
      throw new MusterError("no-such-target", `nobody that is not failing fits ${key === "" ? "the query" : key}`);
    }
    const { id } = component;
    const before = this.#experience(id);
    this.#experiences.set(id, { ...before, outstanding: before.outstanding + 1 });
    let ended = false;
    const end = (judge: (experience: Experience) => Experience) => () => {
      if (ended) return;
      ended = true;
      this.#experiences.set(id, judge(this.#experience(id)));
    };
    return { component, release: end(afterSuccess), fail: end((now) => afterFailure(now, performance.now())) };
  }

  close(): void {
    for (const view of [...this.#watched, ...this.#views.values()]) view.close();
    this.#views.clear();
  }

  #experience(id: string): Experience {
    return this.#experiences.get(id) ?? inexperienced;
  }

  #view(query: DiscoveryQuery): View {
    const key = keyOf(query);
    let view = this.#views.get(key) ?? [...this.#watched].find((watched) => watched.key === key);
    if (view === undefined || view.isRefused) {
      view = new View(key, query, this.#bridge, this.#logger);
      view.start();
    }
    this.#views.set(key, view);
    view.keep();
    return view;
  }
}

/** As the bridge takes it, in one order for all that ask the same. */
function parametersOf({ tags, metadata = {}, ...plain }: DiscoveryQuery): Record<string, string> {
  const given: [string, unknown][] = [
    ...Object.entries(plain),
    ["tag", tags === undefined || tags.length === 0 ? undefined : [...tags].sort().join()],
    ...Object.entries(metadata).map(([name, value]) => [`metadata.${name}`, value] as [string, unknown]),
  ];
  return Object.fromEntries(
    given
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, String(value)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

function keyOf(query: DiscoveryQuery): string {
  return new URLSearchParams(parametersOf(query)).toString();
}

/** One query's answer, kept current. */
class View {
  readonly key: string;
  readonly #query: DiscoveryQuery;
  readonly #bridge: Bridge;
  readonly #logger: Logger;
  readonly #byId = new Map<string, ComponentRecord>();
  readonly #handlers = new Set<(change: MembershipChange) => void>();
  readonly #ending = new AbortController();
  readonly #waiting = new Set<() => void>();
  /** Made when first asked for after a change: under churn most changes are never listed. */
  #list: readonly ComponentRecord[] | undefined;
  #isKnown = false;
  #isDropped = false;
  #refusal: unknown;

  constructor(key: string, query: DiscoveryQuery, bridge: Bridge, logger: Logger) {
    this.key = key;
    this.#query = query;
    this.#bridge = bridge;
    this.#logger = logger;
  }

  start(): void {
    const { signal } = this.#ending;
    const onEvent = (event: StreamEvent) => this.#apply(event);
    const stream = { bridge: this.#bridge, path: "/v1/components", query: parametersOf(this.#query), onEvent, signal };
    void followEvents(stream).catch((error: unknown) => {
      this.#refusal = error;
      this.#wake();
    });
  }

  async list(): Promise<readonly ComponentRecord[]> {
    if (!this.#isKnown && this.#refusal === undefined) {
      await new Promise<void>((resolve) => {
        const finish = () => {
          clearTimeout(timer);
          this.#waiting.delete(finish);
          this.#closeIfUnused();
          resolve();
        };
        const timer = setTimeout(finish, firstAnswerTimeoutMs);
        this.#waiting.add(finish);
      });
    }
    if (this.#isKnown) return this.#components();
    throw this.#refusal ?? unreachable(`discovery had no answer within ${firstAnswerTimeoutMs} ms, and none before`);
  }

  /** The stream was refused and has ended; another view may have better luck. */
  get isRefused(): boolean {
    return this.#refusal !== undefined;
  }

  get watchers(): number {
    return this.#handlers.size;
  }

  watch(handler: (change: MembershipChange) => void): () => void {
    this.#handlers.add(handler);
    if (this.#isKnown) this.#tell(handler, { kind: "reset", components: this.#components() });
    return () => {
      this.#handlers.delete(handler);
      this.#closeIfUnused();
    };
  }

  /** Is kept current also while nobody waits for it or watches it, until `drop`. */
  keep(): void {
    this.#isDropped = false;
  }

  /** Closes it as soon as nobody waits for its first answer or watches it. */
  drop(): void {
    this.#isDropped = true;
    this.#closeIfUnused();
  }

  #closeIfUnused(): void {
    if (this.#isDropped && this.#handlers.size + this.#waiting.size === 0) this.close();
  }

  close(): void {
    this.#ending.abort();
    this.#wake();
  }

  #components(): readonly ComponentRecord[] {
    this.#list ??= [...this.#byId.values()];
    return this.#list;
  }

  #apply({ event, data }: StreamEvent): void {
    if (event === "reset") {
      this.#byId.clear();
      for (const component of (data as { components: ComponentRecord[] }).components) {
        this.#byId.set(component.id, component);
      }
      this.#publish({ kind: "reset" });
      return;
    }
    const component = data as ComponentRecord;
    if (typeof component?.id !== "string") return;
    const wanted = this.#query.state ?? "up";
    // Those of a site that is not heard stay listed where they were: an observer that is cut off expires nobody.
    const known = component.lastKnownState ?? component.state;
    const fits = wanted === "any" || wanted === known || wanted === component.state;
    if (fits && event !== "removed") this.#byId.set(component.id, component);
    else this.#byId.delete(component.id);
    this.#publish({ kind: event as MembershipChange["kind"], component });
  }

  #publish(change: { kind: MembershipChange["kind"]; component?: ComponentRecord }): void {
    this.#list = undefined;
    this.#isKnown = true;
    this.#wake();
    if (this.#handlers.size === 0) return;
    const components = this.#components();
    for (const handler of this.#handlers) this.#tell(handler, { ...change, components });
  }

  #tell(handler: (change: MembershipChange) => void, change: MembershipChange): void {
    void tell(handler, change, (error) => this.#logger.error({ error }, "a watcher's handler threw"));
  }

  #wake(): void {
    for (const finish of [...this.#waiting]) finish();
  }
}
