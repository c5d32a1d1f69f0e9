/**
 * One call of a webhook, and what its answer says of the message. Node's own client rather than `fetch`: that tells a
 * connection on which nothing came from an answer that is none by its texts only.
 */
import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { isMusterError } from "../../config-db/errors.ts";
import { readJson } from "../../config-db/json-tree.ts";
import { readBody } from "../../config-db/request-body.ts";
import { isJson, isMediaType, shown } from "./envelope.ts";

export interface WebhookCall {
  url: string;
  headers: Record<string, string>;
  /** JSON. */
  body: string;
  /** Whether the body of the answer is the reply to a request. */
  isRequest: boolean;
  /** For the whole answer, in milliseconds. */
  timeoutMs: number;
  /** Cuts the call off. */
  signal: AbortSignal;
}

/** `away`: nothing says that a handler had the message. `failed`: something answered, and it is no ack. */
export type CallOutcome =
  | { outcome: "handled"; reply: { content: Buffer; contentType: string } }
  | { outcome: "failed"; reason: string }
  | { outcome: "away"; reason: string };

const answerBytesMax = 1024 * 1024;
const connectTimeoutMs = 10_000;
/** Under the 5 s after which many servers close a connection that nobody uses. */
const idleMs = 4_000;
const saidCharactersMax = 200;
const awayStatuses = new Set([408, 429, 503]);

/** Holds connections to endpoints from one call to the next, until `close`. */
export class WebhookClient {
  readonly #http = new HttpAgent({ keepAlive: true, timeout: idleMs });
  readonly #https = new HttpsAgent({ keepAlive: true, timeout: idleMs });

  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }

  /** Never rejects. */
  call(call: WebhookCall): Promise<CallOutcome> {
    return new Promise((resolve) => {
      let request: ClientRequest;
      try {
        request = this.#open(call);
      } catch (error) {
        resolve({ outcome: "failed", reason: String(error) });
        return;
      }
      let connection: Socket | undefined;
      let bytesBefore = 0;
      const connected = (socket: Socket) => {
        clearTimeout(connecting);
        bytesBefore = socket.bytesRead;
        connection = socket;
      };
      const end = (outcome: CallOutcome) => {
        clearTimeout(connecting);
        clearTimeout(answering);
        call.signal.removeEventListener("abort", cut);
        // Nothing more is read of an answer that did not end by itself.
        request.destroy();
        resolve(outcome);
      };
      const away = (reason: string) => end({ outcome: "away", reason });
      const failed = (reason: string) => end({ outcome: "failed", reason });
      const cut = () => away(String(call.signal.reason));
      const connecting = setTimeout(() => away(`no connection within ${connectTimeoutMs} ms`), connectTimeoutMs);
      const answering = setTimeout(() => {
        if (connection === undefined) away(`no connection within ${call.timeoutMs} ms`);
        else failed(`the webhook gave no answer within ${call.timeoutMs} ms`);
      }, call.timeoutMs);
      call.signal.addEventListener("abort", cut);
      request.on("socket", (socket) => {
        if (!socket.connecting) connected(socket);
        else socket.once(socket instanceof TLSSocket ? "secureConnect" : "connect", () => connected(socket));
      });
      request.on("error", (error) => {
        if (connection !== undefined && connection.bytesRead > bytesBefore) failed(String(error));
        else away(String(error));
      });
      request.on("upgrade", ({ statusCode }, socket) => {
        socket.destroy();
        failed(`the webhook answered ${statusCode}, which was not asked for`);
      });
      request.on("response", (response) => {
        judged(response, call.isRequest).then(end, (error: Error) => failed(`the webhook's answer: ${error.message}`));
      });
      request.end(call.body);
      if (call.signal.aborted) cut();
    });
  }

  #open({ url, headers, body }: WebhookCall): ClientRequest {
    const target = new URL(url);
    const length = { "content-length": Buffer.byteLength(body), "accept-encoding": "gzip" };
    const options = { method: "POST", headers: { ...headers, "content-type": "application/json", ...length } };
    return target.protocol === "https:"
      ? httpsRequest(target, { ...options, agent: this.#https })
      : httpRequest(target, { ...options, agent: this.#http });
  }
}

/** @throws an Error for a body that ends early, is broken or too long. */
async function judged(response: IncomingMessage, isRequest: boolean): Promise<CallOutcome> {
  const { statusCode: status = 0, headers } = response;
  const reading = readBody(response, answerBytesMax);
  if (awayStatuses.has(status)) {
    await reading.catch(() => undefined);
    return { outcome: "away", reason: `status ${status}` };
  }
  if (status < 200 || status > 299) {
    const said = (await reading.catch(() => Buffer.alloc(0))).toString("utf8").slice(0, saidCharactersMax);
    return { outcome: "failed", reason: `the webhook answered ${status} ${said}`.trim() };
  }
  const content = await reading;
  const contentType = headers["content-type"] ?? "application/json";
  const fault = isRequest ? faultOfReply(content, contentType) : undefined;
  if (fault !== undefined) return { outcome: "failed", reason: `the webhook's answer is no reply: ${fault}` };
  return { outcome: "handled", reply: { content, contentType } };
}

function faultOfReply(content: Buffer, contentType: string): string | undefined {
  if (!isMediaType(contentType)) return `its content type is none, ${shown(contentType)}`;
  if (!isJson(contentType) || content.length === 0) return undefined;
  try {
    readJson(content);
    return undefined;
  } catch (error) {
    if (isMusterError(error)) return error.message;
    throw error;
  }
}
