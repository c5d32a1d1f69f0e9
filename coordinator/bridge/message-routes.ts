/** Messages over HTTP: commands, requests, events and the inbox. */
import { MusterError } from "../../config-db/errors.ts";
import type {
  CommandRequest,
  DeliveryNack,
  DeliveryReply,
  EventRequest,
  RequestRequest,
} from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { headers as headerNames } from "../../config-db/names.ts";
import { isJson } from "../messaging/envelope.ts";
import type { EventNews } from "../messaging/events.ts";
import { Idempotency } from "../messaging/idempotency.ts";
import { type Inbox, type InboxMessage, inboxLimits } from "../messaging/inbox.ts";
import type { Member, Members } from "../messaging/members.ts";
import type { Messaging } from "../messaging/messaging.ts";
import { draftLetter } from "../messaging/send.ts";
import type { Answer, QueryParameter, RequestContext, Route, ServerSentEvent } from "./route.ts";
import { wantsStream } from "./watch.ts";

export interface MessageRoutesOptions {
  messaging: Messaging;
  members: Members;
  site: string;
  /** A poll is a sign of life. */
  touch: (id: string) => void;
  wallClock?: () => Date;
}

export function messageRoutes(options: MessageRoutesOptions): Route[] {
  return [...sendRoutes(options), ...eventRoutes(options), ...inboxRoutes(options)];
}

// --- sending -----------------------------------------------------------------------------------------------------

function sendRoutes({ messaging, wallClock = () => new Date() }: MessageRoutesOptions): Route[] {
  const idempotency = new Idempotency();
  const once = <A>(request: RequestContext, path: string, work: (messageId: string) => Promise<A>) =>
    idempotency.once(
      { scope: `${path} ${request.author}`, key: request.header("idempotency-key"), input: request.body },
      work,
    );

  return [
    {
      method: "post",
      path: "/v1/commands",
      summary: "Send a command to one component, to all or any one of a type, or to everyone",
      body: "command-request",
      answers: {
        202: { description: "The broker has it: {id}" },
        422: { description: "Idempotency-Key used otherwise" },
      },
      handle: async (request) => {
        const { to, name, deadlineMs, from, ...body } = request.body as CommandRequest;
        const id = await once(request, "/v1/commands", async (messageId) => {
          const nowMs = wallClock().getTime();
          const plan = messaging.sender.plan(to, "command");
          const kind = plan.key === "" ? "broadcast" : "command";
          const deadline = deadlineMs === undefined ? {} : { deadlineAtMs: nowMs + deadlineMs };
          const { content, contentType } = contentOf(body);
          const draft = { messageId, kind, name, contentType, ...deadline, ...senderOf(request, from) } as const;
          await messaging.sender.send(plan, draftLetter(draft, content, nowMs));
          return messageId;
        });
        return { status: 202, body: { id }, headers: { location: `/v1/commands/${id}` } };
      },
    },
    {
      method: "post",
      path: "/v1/requests",
      summary: "Ask one component, any one of a type, or many, and wait for the reply",
      body: "request-request",
      answers: {
        200: { description: "{from, body}; of a type or all {replies, missing}" },
        502: { description: "The handler failed" },
        504: { description: "No reply in time" },
      },
      handle: async (request) => {
        const { to, name, timeoutMs, from, ...body } = request.body as RequestRequest;
        const answer = await once(request, "/v1/requests", async (messageId) => {
          const nowMs = wallClock().getTime();
          const plan = messaging.sender.plan(to, "request");
          const { content, contentType } = contentOf(body);
          const draft = {
            messageId,
            kind: "request",
            name,
            contentType,
            deadlineAtMs: nowMs + timeoutMs,
            ...senderOf(request, from),
          } as const;
          const letter = draftLetter(draft, content, nowMs);
          return plan.key === ""
            ? messaging.requester.gather(plan, letter, timeoutMs, request.signal)
            : messaging.requester.ask(plan, letter, timeoutMs, request.signal);
        });
        return { status: 200, body: answer };
      },
    },
  ];
}

/** Who a message is from, and the trace that it belongs to. */
function senderOf(request: RequestContext, from: string | undefined): { from?: string; traceparent?: string } {
  const traceparent = request.header(headerNames.traceparent);
  return {
    ...(from === undefined ? {} : { from }),
    ...(traceparent === undefined || !traceparentPattern.test(traceparent) ? {} : { traceparent }),
  };
}

/** W3C Trace Context, version 00 and later. */
const traceparentPattern = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;

/** The bytes of a body as HTTP gives it. @throws MusterError `invalid-request`, `too-large`. */
function contentOf(given: { body?: unknown; contentType?: string; bodyBase64?: string }): {
  content: Buffer;
  contentType: string;
} {
  const { body, contentType = "application/json", bodyBase64 } = given;
  const content = bodyBase64 === undefined ? jsonBytes(body) : base64Bytes(bodyBase64);
  if (content.length > limits.bodyBytes)
    throw new MusterError("too-large", `the body has ${content.length} bytes, the limit is ${limits.bodyBytes}`);
  if (bodyBase64 !== undefined && isJson(contentType) && !isValidJson(content))
    throw new MusterError("invalid-request", `bodyBase64 is not JSON, though contentType is ${contentType}`);
  return { content, contentType };
}

function jsonBytes(body: unknown): Buffer {
  return body === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(body));
}

function base64Bytes(text: string): Buffer {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0)
    throw new MusterError("invalid-request", "bodyBase64 is not base64 (RFC 4648, with padding)");
  return Buffer.from(text, "base64");
}

function isValidJson(content: Buffer): boolean {
  try {
    JSON.parse(content.toString("utf8"));
    return true;
  } catch {
    return false;
  }
}

// --- events ------------------------------------------------------------------------------------------------------

function eventRoutes({ messaging, members, site, wallClock = () => new Date() }: MessageRoutesOptions): Route[] {
  const match: QueryParameter = {
    description: "A topic pattern over `<type>.<component>.<name>`: `*` for one word, `#` for any number.",
    schema: { type: "string", pattern: "^[A-Za-z0-9_*#-]+(\\.[A-Za-z0-9_*#-]+)*$", maxLength: 250 },
  };
  const idempotency = new Idempotency();
  return [
    {
      method: "post",
      path: "/v1/events",
      summary: "Publish an event to whoever subscribed",
      body: "event-request",
      answers: { 202: { description: "The broker has it: {id}" } },
      handle: async (request) => {
        const { name, body, from } = request.body as EventRequest;
        const source = from === undefined ? { type: "bridge", id: site } : registered(members, from);
        const key = request.header("idempotency-key");
        const id = await idempotency.once({ scope: request.author, key, input: request.body }, async (messageId) => {
          const draft = { messageId, kind: "event", name, ...senderOf(request, from) } as const;
          await messaging.events.publish(draftLetter(draft, jsonBytes(body), wallClock().getTime()), source);
          return messageId;
        });
        return { status: 202, body: { id } };
      },
    },
    {
      method: "get",
      path: "/v1/events",
      summary: "Stream events by topic pattern",
      query: { match },
      streams: true,
      answers: { 200: { description: "Server-sent events `event`" } },
      handle: async (request) => {
        if (!wantsStream(request))
          throw new MusterError("invalid-request", "events are only streamed: ask with Accept: text/event-stream");
        return bufferedStream<EventNews>(
          request,
          (give) => messaging.events.subscribe(String(request.query.match ?? "#"), give),
          (event) => ({ event: "event", id: event.id, data: event }),
        );
      },
    },
  ];
}

function registered(members: Members, id: string): Member {
  const member = members.get(id);
  if (member === undefined) throw new MusterError("not-registered", `no component "${id}" is registered`);
  return member;
}

/** Subscribes first and keeps what comes until the answer streams, so that nothing falls between. */
async function bufferedStream<News>(
  request: RequestContext,
  subscribe: (give: (news: News) => void) => Promise<() => void>,
  told: (news: News) => ServerSentEvent,
): Promise<Answer> {
  const early: News[] = [];
  let give = (news: News): void => {
    early.push(news);
  };
  const end = await subscribe((news) => give(news));
  if (request.signal.aborted) end();
  return {
    stream: (send) => {
      for (const news of early.splice(0)) send(told(news));
      give = (news) => send(told(news));
      return end;
    },
  };
}

// --- the inbox ---------------------------------------------------------------------------------------------------

function inboxRoutes({ messaging, members, site, touch }: MessageRoutesOptions): Route[] {
  const query: Record<string, QueryParameter> = {
    max: {
      description: "At most so many messages; also how many deliveries of a queue may be open at once.",
      schema: {
        type: "integer",
        minimum: inboxLimits.max.min,
        maximum: inboxLimits.max.max,
        default: inboxLimits.max.default,
      },
    },
    waitMs: {
      description: "Wait so long, in milliseconds, for the first message.",
      schema: { type: "integer", minimum: 0, maximum: limits.waitMs, default: 0 },
    },
    visibilityMs: {
      description: "A message that is not settled within so many milliseconds comes back.",
      schema: {
        type: "integer",
        minimum: inboxLimits.visibilityMs.min,
        maximum: inboxLimits.visibilityMs.max,
        default: inboxLimits.visibilityMs.default,
      },
    },
  };
  const inboxOf = async (id: string): Promise<Inbox> => {
    const member = registered(members, id);
    if (member.state !== "up")
      throw new MusterError("not-registered", `the component "${id}" is ${member.state}: register it again`);
    if (member.site !== site)
      throw new MusterError(
        "not-registered",
        `the component "${id}" is at home at the site "${member.site}": poll there`,
      );
    return messaging.inboxes.of(member);
  };
  const settled = async (request: RequestContext, settle: (inbox: Inbox, delivery: string) => Promise<void>) => {
    const { id = "", delivery = "" } = request.params;
    touch(id);
    const inbox = messaging.inboxes.existing(id);
    if (inbox === undefined)
      throw new MusterError(
        "no-such-delivery",
        `"${id}" has nothing open at this coordinator: the message comes again`,
      );
    await settle(inbox, delivery);
    return { status: 204 };
  };
  const settling = (verb: string, summary: string): Pick<Route, "method" | "path" | "summary" | "answers"> => ({
    method: "post",
    path: `/v1/components/{id}/inbox/{delivery}/${verb}`,
    summary,
    answers: { 204: { description: "Settled" }, 404: { description: "The delivery is not open" } },
  });

  return [
    {
      method: "get",
      path: "/v1/components/{id}/inbox",
      summary: "Take messages: commands, requests, broadcasts and signals for this component",
      query,
      streams: true,
      answers: { 200: { description: "{messages}, or server-sent events `message`" } },
      handle: async (request) => {
        const { id = "" } = request.params;
        const visibilityMs = Number(request.query.visibilityMs ?? inboxLimits.visibilityMs.default);
        const inbox = await inboxOf(id);
        const stop = keepTouching(() => touch(id), members.get(id)?.ttlMs ?? limits.ttlMs.default);
        if (wantsStream(request)) {
          return bufferedStream<InboxMessage>(
            request,
            async (give) => {
              const end = await inbox.stream({ visibilityMs, give });
              return () => {
                stop();
                end();
              };
            },
            (message) => ({ event: "message", id: message.delivery, data: message }),
          );
        }
        try {
          const max = Number(request.query.max ?? inboxLimits.max.default);
          const waitMs = Number(request.query.waitMs ?? 0);
          const messages = await inbox.poll({ max, waitMs, visibilityMs, signal: request.signal });
          return { status: 200, body: { messages } };
        } finally {
          stop();
        }
      },
    },
    {
      ...settling("ack", "The message was handled"),
      handle: (request) => settled(request, (inbox, delivery) => inbox.ack(delivery)),
    },
    {
      ...settling("nack", "The message could not be handled: it comes again, in the end it is a dead letter"),
      body: "delivery-nack",
      bodyOptional: true,
      handle: (request) =>
        settled(request, (inbox, delivery) => inbox.nack(delivery, (request.body ?? {}) as DeliveryNack)),
    },
    {
      ...settling("reply", "Answer a request"),
      body: "delivery-reply",
      bodyOptional: true,
      handle: (request) =>
        settled(request, (inbox, delivery) => inbox.reply(delivery, contentOf((request.body ?? {}) as DeliveryReply))),
    },
  ];
}

/** A component that waits for messages lives: its lease is renewed three times a TTL meanwhile. */
function keepTouching(touch: () => void, ttlMs: number): () => void {
  touch();
  const timer = setInterval(touch, ttlMs / 3);
  return () => clearInterval(timer);
}
