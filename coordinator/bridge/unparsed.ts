/**
 * What Node's HTTP parser refuses, and so never becomes a request: answered like every other error, written straight to the
 * connection, which ends with it.
 */
import { maxHeaderSize, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { MusterError } from "../../config-db/errors.ts";
import { problemAnswer } from "./problem.ts";

/** To be called before `server` listens. */
export function refuseUnparsed(server: Server): void {
  /** The last answer of each connection. */
  const answers = new WeakMap<Duplex, ServerResponse>();
  server.on("request", (request, response) => answers.set(request.socket, response));
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    // Within an answer the client would take it for a part of that.
    const answer = answers.get(socket);
    const isAnswering = answer?.headersSent === true && !answer.writableFinished;
    if (error.code === "ECONNRESET" || isAnswering) socket.destroy();
    else refuse(socket, refusalOf(error));
  });
  server.on("connect", ({ url }, socket) => {
    refuse(socket, new MusterError("method-not-allowed", `this is no proxy: it does not connect to ${url}`));
  });
}

function refusalOf({ code = "", message }: NodeJS.ErrnoException): MusterError {
  if (code === "HPE_HEADER_OVERFLOW")
    return new MusterError(
      "header-too-large",
      `the request's line and headers are over ${maxHeaderSize} bytes together`,
    );
  if (code === "ERR_HTTP_REQUEST_TIMEOUT")
    return new MusterError("request-timeout", "the request did not come to its end in time; send it again");
  return new MusterError("malformed-request", `what came is no HTTP request: ${message}`);
}

function refuse(socket: Duplex, error: MusterError): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const { status, headers = {}, body } = problemAnswer(error);
  const content = body as Buffer;
  const told = { ...headers, "content-length": String(content.length), connection: "close" };
  const lines = Object.entries(told).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join("")}\r\n`);
  socket.end(content);
}
