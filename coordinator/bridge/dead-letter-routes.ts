/** Dead letters over HTTP: what could not be handled, to be looked at, sent again or discarded. */
import type { DeadLetterMatch, RedriveRequest } from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { toHttpBody } from "../messaging/envelope.ts";
import type { Messaging } from "../messaging/messaging.ts";
import type { QueryParameter, RequestContext, Route } from "./route.ts";

const one = "/v1/dead-letters/{letter}";
const text = (description: string): QueryParameter => ({ description, schema: { type: "string", maxLength: 200 } });
const filters: Record<keyof DeadLetterMatch, QueryParameter> = {
  to: text("Only those for this component, or `any:<type>`."),
  from: text("Only those of this sender."),
  name: text("Only those of this name."),
  state: {
    description: "Only those in this state.",
    schema: { type: "string", enum: ["failed", "expired", "dead-lettered"] },
  },
};

export function deadLetterRoutes({ messaging }: { messaging: Messaging }): Route[] {
  const { deadLetters } = messaging;
  const letterOf = (request: RequestContext) => request.params.letter ?? "";
  return [
    {
      method: "get",
      path: "/v1/dead-letters",
      summary: "List dead letters, the oldest first",
      query: {
        ...filters,
        limit: {
          description: "Letters a page.",
          schema: { type: "integer", ...pageLimits, default: limits.page.default },
        },
        cursor: text("The `cursor` of the page before."),
      },
      answers: { 200: { description: "{deadLetters, cursor?}" } },
      handle: async ({ query }) => {
        const { limit = limits.page.default, cursor, ...rest } = query;
        const match = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
        const page = { match: match as DeadLetterMatch, limit: Number(limit) };
        const answer = await deadLetters.list(cursor === undefined ? page : { ...page, cursor: String(cursor) });
        return { status: 200, body: answer };
      },
    },
    {
      method: "get",
      path: one,
      summary: "A dead letter with its body",
      answers: { 200: { description: "As in the list, with `body`, or `contentType` and `bodyBase64`" } },
      handle: async (request) => {
        const { letter, content } = await deadLetters.get(letterOf(request));
        return { status: 200, body: { ...letter, ...bodyOf(letter.contentType, content) } };
      },
    },
    {
      method: "post",
      path: "/v1/dead-letters/redrive",
      summary: "Send all dead letters again, or those that match; a thousand at a time",
      body: "redrive-request",
      bodyOptional: true,
      answers: { 200: { description: "{redriven, refused, refusals: [{code, detail, count}], more, cursor?}" } },
      handle: async (request) => {
        const { match, cursor } = (request.body ?? {}) as RedriveRequest;
        return { status: 200, body: await deadLetters.redriveMany(match, cursor) };
      },
    },
    {
      method: "post",
      path: "/v1/dead-letters/discard",
      summary: "Discard all dead letters, or those that match; a thousand at a time",
      body: "redrive-request",
      answers: { 200: { description: "{discarded, more, cursor?}" } },
      handle: async (request) => {
        const { match, cursor } = request.body as RedriveRequest;
        return { status: 200, body: await deadLetters.discardMany(match, cursor) };
      },
    },
    {
      method: "post",
      path: `${one}/redrive`,
      summary: "Send a dead letter again, as a first attempt and without its deadline",
      answers: { 202: { description: "The broker has it" }, 422: { description: "It can only be discarded" } },
      handle: async (request) => {
        await deadLetters.redrive(letterOf(request));
        return { status: 202, body: {} };
      },
    },
    {
      method: "delete",
      path: one,
      summary: "Discard a dead letter",
      answers: { 204: { description: "Gone" } },
      handle: async (request) => {
        await deadLetters.discard(letterOf(request));
        return { status: 204 };
      },
    },
  ];
}

const pageLimits = { minimum: limits.page.min, maximum: limits.page.max };

function bodyOf(contentType: string | undefined, content: Buffer) {
  const envelope = { messageId: "", kind: "command", name: "", attempt: 1 } as const;
  // A malformed one is shown as the bytes that it is.
  if (contentType === undefined) return { bodyBase64: content.toString("base64") };
  return toHttpBody({ envelope: { ...envelope, contentType }, content });
}
