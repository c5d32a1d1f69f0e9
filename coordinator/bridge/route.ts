/**
 * What a route is: one declaration that the HTTP server, the input checks and the OpenAPI document are all made from.
 * A capability's routes stand in one file beside this one and are plain data around its handlers.
 */
import type { SchemaName } from "../../config-db/validate.ts";

/** A query parameter. Parameters that a route does not declare are refused: a typo must not silently change an answer. */
export interface QueryParameter {
  description: string;
  schema:
    | { type: "string"; enum?: string[]; pattern?: string; maxLength?: number }
    | { type: "integer"; minimum: number; maximum: number; default?: number }
    | { type: "boolean" };
}

/** A checked request. Parameters are decoded and conform to what the route declares. */
export interface RequestContext {
  /** Path parameters. */
  params: Record<string, string>;
  query: Record<string, string | number | boolean | undefined>;
  /** The parsed JSON body, checked against the route's `body` schema; a Buffer for `body: "bytes"`. */
  body: unknown;
  /** Header by lower-case name. */
  header(name: string): string | undefined;
  /** Who asks, for `changedBy`: the token's owner, or the `Muster-User` header, or "anonymous". */
  author: string;
  /**
   * Aborts when the client has gone, or is to be answered with what there is since the coordinator stops: at once where it
   * waits for news (`waitMs`), else when the time to drain is nearly over.
   */
  signal: AbortSignal;
}

export interface JsonAnswer {
  status: number;
  headers?: Record<string, string>;
  /** Absent for an empty answer (204, 304). A Buffer is sent as it is, with the `content-type` of `headers`. */
  body?: unknown;
}

/** One server-sent event. `data` is sent as JSON, written out once however many readers get the same object. */
export interface ServerSentEvent {
  event: string;
  id?: string;
  data: object;
}

/** A `text/event-stream` answer: `start` is called once, sends what it likes, and returns what ends it. */
export interface StreamAnswer {
  stream: (send: (event: ServerSentEvent) => void) => () => void;
}

export type Answer = JsonAnswer | StreamAnswer;

export interface AnswerDescription {
  description: string;
  /** Of the JSON body: an object unless this says which, for every status of success but 204. */
  schema?: SchemaName | Record<string, unknown>;
  /** The media type of a body that is no JSON, in place of a schema. */
  media?: string;
}

export interface Route {
  method: "get" | "put" | "post" | "patch" | "delete";
  /** OpenAPI form: `/v1/components/{id}`. A parameter matches one path segment. */
  path: string;
  summary: string;
  /** Parameters named `id`, `type`, `site`, `subsystem` in the path are checked against the id pattern. */
  query?: Record<string, QueryParameter>;
  /** The JSON body's schema, or `bytes` for a raw body; absent where a body is refused. */
  body?: SchemaName | "bytes";
  /** True where the JSON body may be absent (it is `{}` then). */
  bodyOptional?: boolean;
  /** True where nothing of the body may be told, not in a refusal of it either. */
  bodyIsSecret?: boolean;
  /** True where `Accept: text/event-stream` gets a stream. */
  streams?: boolean;
  /** Status → what it means; errors of every route (400, 401, 404, 503 …) are added by the OpenAPI builder. */
  answers: Record<number, AnswerDescription>;
  handle(request: RequestContext): Answer | Promise<Answer>;
}
