/** Messages over HTTP: commands, requests, events, the tap; the inbox and the dead letters stand beside this file. */
import { MusterError } from "../../config-db/errors.ts";
import type { CommandDocument, CommandRequest, EventRequest, RequestRequest } from "../../config-db/generated/types.ts";
import type { Stored } from "../../config-db/store.ts";
import { etagOf } from "../config/etag.ts";
import { commandAnswer } from "../messaging/command-record.ts";
import type { EventNews } from "../messaging/events.ts";
import { fingerprintOf, Idempotency } from "../messaging/idempotency.ts";
import type { Members } from "../messaging/members.ts";
import type { Messaging } from "../messaging/messaging.ts";
import { draftLetter } from "../messaging/send.ts";
import type { Tapped } from "../messaging/tap.ts";
import { deadLetterRoutes } from "./dead-letter-routes.ts";
import { inboxRoutes } from "./inbox-routes.ts";
import { bufferedStream, contentOf, senderOf } from "./message-body.ts";
import type { QueryParameter, RequestContext, Route } from "./route.ts";
import type { SignsOfLife } from "./sign-of-life.ts";
import { answerOrWait, streamNewest, waitParameter, wantsStream } from "./watch.ts";

export interface MessageRoutesOptions {
  messaging: Messaging;
  members: Members;
  site: string;
  /** A poll is a sign of life. */
  signs: SignsOfLife;
  wallClock?: () => Date;
}

export function messageRoutes(options: MessageRoutesOptions): Route[] {
  return [
    ...commandRoutes(options),
    requestRoute(options),
    ...eventRoutes(options),
    tapRoute(options),
    ...inboxRoutes(options),
    ...deadLetterRoutes(options),
  ];
}

function commandRoutes({ messaging }: MessageRoutesOptions): Route[] {
  const idempotency = new Idempotency();
  return [
    {
      method: "post",
      path: "/v1/commands",
      summary: "Send a command to one component, to all or any one of a type, or to everyone",
      body: "command-request",
      answers: {
        202: { description: "The broker has it: {id}; what becomes of it is at /v1/commands/{id}" },
        404: { description: "Nobody could get it; nothing was sent" },
        422: { description: "The Idempotency-Key came with another command before" },
      },
      handle: async (request) => {
        const { deadlineMs, ...input } = request.body as CommandRequest;
        const { to, name, from, track = true, ...body } = input;
        const key = request.header("idempotency-key");
        // Without the deadline: who repeats counts it from then.
        const id = await idempotency.once({ scope: request.author, key, input }, async (messageId) => {
          const tracked = track ? { fingerprint: fingerprintOf({ to, name, ...body }) } : {};
          const sender = senderOf(request, from);
          await messaging.commands.send({
            id: messageId,
            to,
            name,
            deadlineMs,
            ...contentOf(body),
            ...sender,
            ...tracked,
          });
          return messageId;
        });
        return { status: 202, body: { id }, headers: { location: `/v1/commands/${id}` } };
      },
    },
    {
      method: "get",
      path: "/v1/commands/{command}",
      summary: "What became of a command: per target queued, delivered, done, failed, expired or dead-lettered",
      query: { ...waitParameter },
      streams: true,
      answers: { 200: { description: "{id, to, name, sentAt, deadlineAt?, targets}; streamed as events `command`" } },
      handle: async (request) => {
        const command = await watchCommand(messaging, request.params.command ?? "");
        if (wantsStream(request)) {
          const event = () => {
            const { etag, body } = command.read();
            return { event: "command", id: etag, data: body };
          };
          return streamNewest(request, event, command.subscribe);
        }
        try {
          return await answerOrWait(request, command);
        } finally {
          command.end();
        }
      },
    },
  ];
}

/** A command, watched before it is read, so that no change falls between; until `end`, or a subscription's end. */
async function watchCommand({ tracking }: Messaging, id: string) {
  let changed = () => {};
  let newest: Stored<CommandDocument> | undefined;
  const end = tracking.watch(id, (record) => {
    newest = record;
    changed();
  });
  try {
    const found = await tracking.read(id);
    return {
      read: () => {
        const body = commandAnswer(newest ?? found);
        return { etag: etagOf(body), body };
      },
      subscribe: (tell: () => void) => {
        changed = tell;
        return end;
      },
      end,
    };
  } catch (error) {
    end();
    throw error;
  }
}

function requestRoute({ messaging, wallClock = () => new Date() }: MessageRoutesOptions): Route {
  const idempotency = new Idempotency();
  return {
    method: "post",
    path: "/v1/requests",
    summary: "Ask one component, any one of a type, or many, and wait for the reply",
    body: "request-request",
    answers: {
      200: { description: "{from, body}; of a type or all {replies, missing}" },
      404: { description: "Nobody could get it" },
      502: { description: "The handler failed" },
      504: { description: "No reply in time" },
    },
    handle: async (request) => {
      const { timeoutMs, ...input } = request.body as RequestRequest;
      const { to, name, from, ...body } = input;
      const key = request.header("idempotency-key");
      const { requester, sender } = messaging;
      // Whoever repeats it under its key, since the first connection broke, is to have the answer.
      const signal = key === undefined ? request.signal : new AbortController().signal;
      const ask = async (messageId: string): Promise<unknown> => {
        const nowMs = wallClock().getTime();
        const { content, contentType } = contentOf(body);
        const deadlineAtMs = nowMs + timeoutMs;
        const draft = {
          messageId,
          kind: "request",
          name,
          contentType,
          deadlineAtMs,
          ...senderOf(request, from),
        } as const;
        const plan = sender.plan(to, "request");
        const letter = draftLetter(draft, content, nowMs);
        if (plan.key === "") return requester.gather(plan, letter, timeoutMs, signal);
        return requester.ask(plan, letter, timeoutMs, signal);
      };
      const answer = await idempotency.once({ scope: request.author, key, input }, ask);
      return { status: 200, body: answer };
    },
  };
}

const match = (description: string): QueryParameter => ({
  description,
  schema: { type: "string", pattern: "^[A-Za-z0-9._:/*#-]+$", maxLength: 255 },
});

function eventRoutes({ messaging, members, site, wallClock = () => new Date() }: MessageRoutesOptions): Route[] {
  const idempotency = new Idempotency();
  return [
    {
      method: "post",
      path: "/v1/events",
      summary: "Publish an event to whoever subscribed",
      body: "event-request",
      answers: { 202: { description: "The broker has it: {id}" } },
      handle: async (request) => {
        const { name, from, ...body } = request.body as EventRequest;
        const source = from === undefined ? { type: "bridge", id: site } : members.get(from);
        if (source === undefined) throw new MusterError("not-registered", `no component "${from}" is registered`);
        const key = request.header("idempotency-key");
        const id = await idempotency.once({ scope: request.author, key, input: request.body }, async (messageId) => {
          const { content, contentType } = contentOf(body);
          const draft = { messageId, kind: "event", name, contentType, ...senderOf(request, from) } as const;
          await messaging.events.publish(draftLetter(draft, content, wallClock().getTime()), source);
          return messageId;
        });
        return { status: 202, body: { id } };
      },
    },
    {
      method: "get",
      path: "/v1/events",
      summary: "Stream events by topic pattern",
      query: {
        match: match(
          "A topic pattern over `<type>.<component>.<name>`: `*` for one word, `#` for any number, at most twice.",
        ),
      },
      streams: true,
      answers: {
        200: {
          description: "Server-sent events `event`; what was published before is not repeated",
          media: "text/event-stream",
        },
      },
      handle: async (request) => {
        expectStream(request, "events");
        return bufferedStream<EventNews>(
          request,
          (give) => messaging.events.subscribe(String(request.query.match ?? "#"), give),
          (event) => ({ event: "event", id: event.id, data: event }),
        );
      },
    },
  ];
}

function tapRoute({ messaging }: MessageRoutesOptions): Route {
  return {
    method: "get",
    path: "/v1/tap",
    summary:
      "Stream a copy of every message's envelope, without disturbing its delivery; replies to requests that were POSTed " +
      "at another coordinator are shown there only",
    query: {
      match: match(
        "A topic pattern over `<kind>.<target>.<name>`; the target is a component, a type, `all` or `dead`.",
      ),
      body: { description: "Copy the bodies too.", schema: { type: "boolean" } },
    },
    streams: true,
    answers: { 200: { description: "Server-sent events `message`", media: "text/event-stream" } },
    handle: async (request) => {
      expectStream(request, "tapped messages");
      const pattern = String(request.query.match ?? "#");
      return bufferedStream<Tapped>(
        request,
        (give) => messaging.tap.open({ pattern, body: request.query.body === true, give }),
        (tapped) => ({ event: "message", data: tapped, ...(tapped.id === undefined ? {} : { id: tapped.id }) }),
      );
    },
  };
}

function expectStream(request: RequestContext, what: string): void {
  if (!wantsStream(request))
    throw new MusterError("invalid-request", `${what} are only streamed: ask with Accept: text/event-stream`);
}
