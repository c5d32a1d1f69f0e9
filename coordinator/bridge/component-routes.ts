/** Components over HTTP: registration, leases, discovery with waits and streams. */
import { MusterError } from "../../config-db/errors.ts";
import type { Registration, Renewal } from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { idPattern, reservedIdPattern } from "../../config-db/names.ts";
import { type ComponentRecord, type DiscoveryQuery, recordOf } from "../registry/discovery.ts";
import { type LogEntry, toldAs } from "../registry/event-log.ts";
import { checkRegistration } from "../registry/registration.ts";
import type { Registry } from "../registry/registry.ts";
import { relayedHeader } from "../registry/relay.ts";
import type { QueryParameter, RequestContext, Route, ServerSentEvent, StreamAnswer } from "./route.ts";
import { answerOrWait, waitParameter, wantsStream } from "./watch.ts";

export interface ComponentRoutesOptions {
  registry: Registry;
  /** What a registration is told of its configuration. */
  config: {
    etagOf(id: string): string;
    /** The component's own layer in the site's store. */
    documentUrl(id: string): string;
  };
  messaging: {
    addresses(id: string): { inbox: string; amqp?: Record<string, unknown> };
  };
  /** Where this bridge is reached, without a slash at the end. */
  publicUrl(): string;
}

const path = "/v1/components/{id}";
const idParameter = (what: string): QueryParameter => ({
  description: what,
  schema: { type: "string", pattern: idPattern.source, maxLength: 63 },
});
const queryParameters: Record<string, QueryParameter> = {
  type: idParameter("Only components of this type."),
  subsystem: idParameter("Only components of this sub-system."),
  site: idParameter("Only components whose home is this site."),
  tag: {
    description: "Only components with this tag; with commas between several, those that have all of them.",
    schema: { type: "string", maxLength: 1_000 },
  },
  state: {
    description: "The state to list; `up` unless said. `any` lists all.",
    schema: { type: "string", enum: ["up", "expired", "gone", "unverified", "any"] },
  },
  health: {
    description: "Only components that report this health. One that reports none is passing.",
    schema: { type: "string", enum: ["passing", "warning", "failing"] },
  },
  "metadata.*": {
    description: "Only components whose metadata has this value: `metadata.zone=a`.",
    schema: { type: "string", maxLength: 1_000 },
  },
  limit: {
    description: "Components a page.",
    schema: {
      type: "integer",
      minimum: limits.page.min,
      maximum: limits.page.max,
      default: limits.page.default,
    },
  },
  cursor: idParameter("The `cursor` of the page before."),
};

export function componentRoutes(options: ComponentRoutesOptions): Route[] {
  return [...leaseRoutes(options), ...discoveryRoutes(options.registry)];
}

function leaseRoutes({ registry, config, messaging, publicUrl }: ComponentRoutesOptions): Route[] {
  return [
    {
      method: "put",
      path,
      summary: "Register a component, new or again",
      body: "registration",
      answers: {
        200: { description: "it was known; its record is as said now", schema: { type: "object" } },
        201: { description: "registered", schema: { type: "object" } },
      },
      handle: async ({ params, body }) => {
        const id = params.id as string;
        if (reservedIdPattern.test(id)) {
          const told =
            "its queues would have the names of others; it must not be, or begin with, any., site., leader. or outcomes.";
          throw new MusterError("invalid-request", `"${id}" cannot be a component's id: ${told}`);
        }
        const registration = body as Registration;
        checkRegistration(registration);
        const { record, created, expiresInMs } = await registry.register(id, registration);
        const { type, site, state, incarnation, ttlMs } = record;
        return {
          status: created ? 201 : 200,
          body: {
            id,
            type,
            site,
            state,
            incarnation,
            // A third: two renewals may be lost before the lease is.
            lease: { ttlMs, expiresInMs, renewEveryMs: Math.floor(ttlMs / 3) },
            config: {
              url: `${publicUrl()}/v1/components/${id}/config`,
              etag: config.etagOf(id),
              document: config.documentUrl(id),
            },
            messaging: messaging.addresses(id),
          },
        };
      },
    },
    {
      method: "put",
      path: `${path}/lease`,
      summary: "Renew a component's lease",
      body: "renewal",
      bodyOptional: true,
      answers: {
        200: { description: "renewed", schema: { type: "object" } },
        404: { description: "unknown, gone or expired: register again" },
        409: { description: "a newer process has this id" },
      },
      handle: async (request) => ({
        status: 200,
        body: await registry.renew(request.params.id as string, (request.body ?? {}) as Renewal, {
          isRelayed: request.header(relayedHeader) !== undefined,
        }),
      }),
    },
    {
      method: "delete",
      path,
      summary: "Deregister a component",
      query: {
        purge: { description: "Remove it at once, with its queues.", schema: { type: "boolean" } },
        incarnation: {
          description: "Of the process that leaves: a newer one under the same id stays.",
          schema: { type: "integer", minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
        },
      },
      answers: {
        204: { description: "gone; with purge removed" },
        409: { description: "a newer process has this id" },
      },
      handle: async ({ params, query }) => {
        const { purge, incarnation } = query as { purge?: boolean; incarnation?: number };
        await registry.deregister(params.id as string, {
          purge: purge === true,
          ...(incarnation === undefined ? {} : { incarnation }),
        });
        return { status: 204 };
      },
    },
  ];
}

function discoveryRoutes(registry: Registry): Route[] {
  return [
    {
      method: "get",
      path,
      summary: "A component's record",
      query: waitParameter,
      streams: true,
      answers: { 200: { description: "the record", schema: { type: "object" } }, 304: { description: "unchanged" } },
      handle: (request) => {
        const id = request.params.id as string;
        const { type } = registry.read(id).record;
        if (wantsStream(request)) {
          const records = () => {
            const known = registry.get(id);
            return known === undefined ? [] : [registry.read(id).record];
          };
          return stream(registry, request, { state: "any" }, records, ({ event }) => event.component.id === id);
        }
        return answerOrWait(request, {
          read: () => {
            const { etag, record } = registry.read(id);
            return { etag, body: record };
          },
          subscribe: (changed) =>
            registry.watch(({ event }) => {
              if (event.component.id === id) changed();
            }, type),
        });
      },
    },
    {
      method: "get",
      path: "/v1/components",
      summary: "Discover components; waits and streams",
      query: { ...queryParameters, ...waitParameter },
      streams: true,
      answers: {
        200: { description: "`components`, and a `cursor` when there are more", schema: { type: "object" } },
        304: { description: "unchanged" },
      },
      handle: (request) => {
        const query = discoveryQuery(request);
        if (wantsStream(request)) {
          const { limit, cursor } = request.query;
          if (limit !== undefined || cursor !== undefined) {
            throw new MusterError("invalid-request", "a stream has no pages: leave out limit and cursor");
          }
          return stream(
            registry,
            request,
            query,
            () => all(registry, query),
            () => true,
          );
        }
        const limit = Number(request.query.limit ?? limits.page.default);
        const cursor = request.query.cursor as string | undefined;
        return answerOrWait(request, {
          read: () => {
            const page = registry.discover(query, { limit, cursor });
            const rest = page.cursor === undefined ? {} : { cursor: page.cursor };
            return { etag: page.etag, body: { components: page.records, ...rest } };
          },
          subscribe: (changed) =>
            registry.watch(({ event }) => {
              if (toldAs(query, event) !== undefined) changed();
            }, query.type),
        });
      },
    },
  ];
}

function discoveryQuery({ query }: RequestContext): DiscoveryQuery {
  const { type, subsystem, site, tag, state = "up", health } = query as Record<string, string | undefined>;
  const metadata = Object.entries(query).flatMap(([name, value]) =>
    name.startsWith("metadata.") ? [[name.slice("metadata.".length), String(value)]] : [],
  );
  return {
    ...(type === undefined ? {} : { type }),
    ...(subsystem === undefined ? {} : { subsystem }),
    ...(site === undefined ? {} : { site }),
    ...(tag === undefined ? {} : { tags: tag.split(",") }),
    state: state as DiscoveryQuery["state"],
    ...(health === undefined ? {} : { health: health as NonNullable<DiscoveryQuery["health"]> }),
    ...(metadata.length === 0 ? {} : { metadata: Object.fromEntries(metadata) }),
  };
}

function all(registry: Registry, query: DiscoveryQuery): unknown[] {
  return registry.discover(query, { limit: Number.POSITIVE_INFINITY }).records;
}

const recordsIn = new WeakMap<LogEntry, ComponentRecord>();

/** The record that an event tells of: one object for all who are told. */
function recordIn(entry: LogEntry): ComponentRecord {
  let record = recordsIn.get(entry);
  if (record === undefined) {
    const { component, after } = entry.event;
    record = recordOf(component, after?.heard ?? true);
    recordsIn.set(entry, record);
  }
  return record;
}

/**
 * First everything that fits, as a `reset`, or what a watcher that comes back has missed; then each event as it
 * happens. Every event's id is where the watcher stands after it.
 */
function stream(
  registry: Registry,
  request: RequestContext,
  query: DiscoveryQuery,
  everything: () => unknown[],
  concerns: (entry: LogEntry) => boolean,
): StreamAnswer {
  return {
    stream: (send: (event: ServerSentEvent) => void) => {
      const tell = (entry: LogEntry) => {
        const kind = concerns(entry) ? toldAs(query, entry.event) : undefined;
        if (kind === undefined) return;
        send({ event: kind, id: entry.id, data: recordIn(entry) });
      };
      const { lastId, missed } = registry.resume(request.header("last-event-id"));
      if (missed === undefined) send({ event: "reset", id: lastId, data: { components: everything() } });
      else for (const entry of missed) tell(entry);
      return registry.watch(tell, query.type);
    },
  };
}
