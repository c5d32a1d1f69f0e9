/**
 * Writing answers. They go out together at the end of the turn of the event loop in which they were given: whoever asks on
 * many connections wakes up once for all of them, and a write that has to wake somebody costs several times as much as one
 * that has not. Warm reads of configuration became a quarter faster by it (test/bench/rows/config-get.ts).
 */
import type { ServerResponse } from "node:http";
import type { JsonAnswer } from "./route.ts";

interface Due {
  response: ServerResponse;
  /** Absent: there is nothing after the head. */
  content?: string | Buffer;
}

let due: Due[] = [];

/** Does nothing where an answer was begun already, or nobody is there to read it. @throws Error for what no header can be. */
export function send({ status, headers = {}, body }: JsonAnswer, response: ServerResponse): void {
  if (response.headersSent || response.destroyed) return;
  if (body === undefined) {
    response.writeHead(status, headers);
    sendSoon({ response });
    return;
  }
  // Text goes out with the head in one write, bytes in a second one.
  const content = Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const length = Buffer.byteLength(content);
  response.writeHead(status, { "content-type": "application/json", ...headers, "content-length": length });
  sendSoon(response.req.method === "HEAD" ? { response } : { response, content });
}

function sendSoon(answer: Due): void {
  due.push(answer);
  if (due.length === 1) setImmediate(sendDue);
}

function sendDue(): void {
  const answers = due;
  due = [];
  for (const { response, content } of answers) {
    // Its client may have gone meanwhile.
    if (!response.destroyed) response.end(content);
  }
}
