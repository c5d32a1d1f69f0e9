/** A component's inbox over HTTP: taking messages, settling them. */
import { MusterError } from "../../config-db/errors.ts";
import type { DeliveryNack, DeliveryReply } from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { type Inbox, inboxLimits } from "../messaging/inbox.ts";
import type { InboxMessage } from "../messaging/inbox-deliveries.ts";
import type { Member, Members } from "../messaging/members.ts";
import type { Messaging } from "../messaging/messaging.ts";
import type { Settlement } from "../messaging/settling.ts";
import { bufferedStream, contentOf } from "./message-body.ts";
import type { QueryParameter, RequestContext, Route } from "./route.ts";
import { incarnationParameter, keepAlive, type Sign, type SignsOfLife, signIn, whileAlive } from "./sign-of-life.ts";
import { wantsStream } from "./watch.ts";

export interface InboxRoutesOptions {
  messaging: Messaging;
  members: Members;
  site: string;
  /** A poll is a sign of life. */
  signs: SignsOfLife;
}

export function inboxRoutes({ messaging, members, site, signs }: InboxRoutesOptions): Route[] {
  const query: Record<string, QueryParameter> = {
    ...incarnationParameter,
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
    again: {
      description: "Begin with what was handed out and not settled: an answer was lost, or the process that had it.",
      schema: { type: "boolean" },
    },
    last: {
      description: "Hand out all that any coordinator of the site has taken, without waiting, and take no more.",
      schema: { type: "boolean" },
    },
  };
  const inboxOf = async (sign: Sign): Promise<Inbox> => {
    const { id } = sign;
    const member = registered(members, id);
    if (member.state !== "up")
      throw new MusterError("not-registered", `the component "${id}" is ${member.state}: register it again`);
    if (member.site !== site)
      throw new MusterError(
        "not-registered",
        `the component "${id}" is at home at the site "${member.site}": poll there`,
      );
    // Its queues may have to be declared first, for longer than its lease.
    return whileAlive(signs, sign, () => messaging.inboxes.of(member));
  };
  const settled = async (request: RequestContext, settlement: Settlement) => {
    const { id = "", delivery = "" } = request.params;
    signs.touch({ id });
    await messaging.settling.settle(id, delivery, settlement);
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
      answers: {
        200: { description: "{messages}, or server-sent events `message`" },
        409: { description: "a newer process has this id" },
      },
      handle: async (request) => {
        const sign = signIn(request);
        const visibilityMs = Number(request.query.visibilityMs ?? inboxLimits.visibilityMs.default);
        const inbox = await inboxOf(sign);
        if (wantsStream(request)) {
          return bufferedStream<InboxMessage>(
            request,
            async (give) => {
              const end = await inbox.stream({ visibilityMs, give });
              const stop = keepAlive(signs, sign);
              return () => {
                stop();
                end();
              };
            },
            (message) => ({ event: "message", id: message.delivery, data: message }),
          );
        }
        const max = Number(request.query.max ?? inboxLimits.max.default);
        const waitMs = Number(request.query.waitMs ?? 0);
        const { again = false, last = false } = request.query as { again?: boolean; last?: boolean };
        const messages = await whileAlive(signs, sign, (superseded) => {
          const signal = AbortSignal.any([request.signal, superseded]);
          return inbox.poll({ max, waitMs, visibilityMs, again, last, signal });
        });
        return { status: 200, body: { messages } };
      },
    },
    {
      method: "delete",
      path: "/v1/components/{id}/inbox",
      summary:
        "Poll no more, or anew: what any coordinator of the site took and nobody settled goes back to its queue at once",
      answers: { 204: { description: "No coordinator of the site holds anything of the inbox" } },
      handle: async ({ params }) => {
        await messaging.release(params.id as string);
        return { status: 204 };
      },
    },
    {
      ...settling("ack", "The message was handled"),
      handle: (request) => settled(request, { how: "ack" }),
    },
    {
      ...settling("nack", "The message could not be handled: it comes again, in the end it is a dead letter"),
      body: "delivery-nack",
      bodyOptional: true,
      handle: (request) => settled(request, { how: "nack", ...((request.body ?? {}) as DeliveryNack) }),
    },
    {
      ...settling("reply", "Answer a request"),
      body: "delivery-reply",
      bodyOptional: true,
      handle: (request) => settled(request, { how: "reply", ...contentOf((request.body ?? {}) as DeliveryReply) }),
    },
  ];
}

function registered(members: Members, id: string): Member {
  const member = members.get(id);
  if (member === undefined) throw new MusterError("not-registered", `no component "${id}" is registered`);
  return member;
}
