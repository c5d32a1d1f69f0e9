/** What an operator can do and see, all of it over HTTP: the demo's story is told from here. */
import { randomUUID } from "node:crypto";
import { pause } from "../../clients/typescript/src/backoff.ts";
import { Bridge, type BridgeRequest } from "../../clients/typescript/src/bridge.ts";
import { followEvents, type StreamEvent } from "../../clients/typescript/src/event-stream.ts";
import { isMusterError, MusterError } from "../../config-db/errors.ts";

export interface ComponentNews {
  /** `reset` lists; the others tell one that changed. */
  event: string;
  id: string;
  state: string;
  incarnation: number;
}

export interface EventNews {
  name: string;
  from: string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the sender put there.
  body: any;
}

interface ConfigStatus {
  components: { id: string; etag?: string; wanted?: string; status?: string }[];
}

type Look<News> = (news: News) => void;

/** A coordinator or broker that was killed has to be back by then; the story waits for it. */
const patienceMs = 60_000;

export class Operator {
  readonly #bridge: Bridge;
  readonly #stopping: AbortSignal;
  readonly #events = new Set<Look<EventNews>>();
  readonly #components = new Set<Look<ComponentNews>>();
  readonly #known = new Map<string, ComponentNews>();

  constructor(options: { urls: string[]; token: string | undefined; stopping: AbortSignal }) {
    this.#bridge = new Bridge(options);
    this.#stopping = options.stopping;
  }

  /** Follows events and discovery until the operator is told to stop. Resolves when both streams are open. */
  async start(): Promise<void> {
    const follow = (path: string, query: Record<string, string>, onEvent: (event: StreamEvent) => void) =>
      new Promise<void>((resolve, reject) => {
        const onState = (open: boolean) => open && resolve();
        followEvents({ bridge: this.#bridge, path, query, onEvent, onState, signal: this.#stopping }).then(
          resolve,
          reject,
        );
      });
    await Promise.all([
      follow("/v1/events", { match: "#" }, ({ data }) => {
        for (const look of [...this.#events]) look(data as EventNews);
      }),
      follow("/v1/components", { tag: "demo", state: "any" }, (event) => this.#changed(event)),
    ]);
  }

  /** Asks until a coordinator answers. A request that changes something carries one key over all tries. */
  async ask<T>(request: BridgeRequest): Promise<T> {
    return (await this.#ask<T>(request)).body;
  }

  async #ask<T>(request: BridgeRequest): Promise<{ body: T; etag: string | undefined; status: number }> {
    const giveUpAtMs = performance.now() + patienceMs;
    const headers =
      request.method === "POST" ? { "idempotency-key": randomUUID(), ...request.headers } : request.headers;
    for (;;) {
      try {
        return await this.#bridge.ask<T>({ ...request, ...(headers && { headers }), signal: this.#stopping });
      } catch (error) {
        const isAway = isMusterError(error) && error.status === 503;
        if (!isAway || this.#stopping.aborted || performance.now() > giveUpAtMs) throw error;
        await pause(100, this.#stopping);
      }
    }
  }

  configure(type: string, settings: object, method: "PUT" | "PATCH"): Promise<unknown> {
    const body = { settings, note: "the demo" };
    return this.ask({ method, path: `/v1/config/layers/type:${type}`, body });
  }

  /** Resolves when all of `ids` report that they have applied what is wanted of them, and that is not `before`. */
  async applied(type: string, ids: string[], before?: string): Promise<string> {
    const giveUpAtMs = performance.now() + patienceMs;
    let etag: string | undefined;
    while (performance.now() < giveUpAtMs && !this.#stopping.aborted) {
      const answer = await this.#ask<ConfigStatus>({
        path: "/v1/config/status",
        query: { type, ...(etag !== undefined && { waitMs: 2_000 }) },
        ...(etag !== undefined && { headers: { "if-none-match": `"${etag}"` } }),
      });
      if (answer.status === 304) continue;
      etag = answer.etag;
      const mine = answer.body.components.filter(({ id }) => ids.includes(id));
      const isDone = ({ status, etag: has, wanted }: (typeof mine)[number]) =>
        status === "applied" && has === wanted && wanted !== before;
      if (mine.length === ids.length && mine.every(isDone)) return mine[0]?.wanted ?? "";
    }
    throw late(`${ids.join(" and ")} did not report the configuration as applied`);
  }

  /** Resolves with the first event from now on that fits. Start to wait before doing what causes it. */
  event(fits: (event: EventNews) => boolean, what: string): Promise<EventNews> {
    return this.#first(this.#events, fits, what);
  }

  /** Resolves when a component is in that state, or is in it already. */
  component(id: string, state: string, newerThan = 0): Promise<ComponentNews> {
    const fits = (news: ComponentNews) => news.id === id && news.state === state && news.incarnation > newerThan;
    const known = this.#known.get(id);
    if (known !== undefined && fits(known)) return Promise.resolve(known);
    return this.#first(this.#components, fits, `${id} to be ${state}`);
  }

  incarnationOf(id: string): number {
    return this.#known.get(id)?.incarnation ?? 0;
  }

  #changed({ event, data }: StreamEvent): void {
    const records = event === "reset" ? (data as { components: ComponentNews[] }).components : [data as ComponentNews];
    for (const record of records) {
      const news = { ...record, event };
      this.#known.set(record.id, news);
      for (const look of [...this.#components]) look(news);
    }
  }

  #first<News>(looks: Set<Look<News>>, fits: (news: News) => boolean, what: string): Promise<News> {
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void) => {
        clearTimeout(timer);
        looks.delete(look);
        this.#stopping.removeEventListener("abort", stop);
        settle();
      };
      const look = (news: News) => {
        if (fits(news)) finish(() => resolve(news));
      };
      const stop = () => finish(() => reject(late(`stopped while waiting for ${what}`)));
      const timer = setTimeout(() => finish(() => reject(late(`waited ${patienceMs} ms for ${what}`))), patienceMs);
      looks.add(look);
      this.#stopping.addEventListener("abort", stop);
    });
  }
}

function late(message: string): MusterError {
  return new MusterError("deadline-exceeded", message);
}
