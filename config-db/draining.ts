/** Closing an HTTP server at once where nobody waits for an answer. */
import type { Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Closes a server. @param endOpen ends the answers that would go on by themselves: streams and feeds. */
export type Drain = (drainMs: number, endOpen: () => void | Promise<void>) => Promise<void>;

/**
 * To be called before `server` listens.
 * @returns what closes it: takes no more connections, ends those that wait for nothing, and waits for answers under way, at
 *   most `drainMs`. Node's own `closeIdleConnections` leaves those that were opened and never used, as clients that keep
 *   a pool make, and those that are used again for the next request: both would hold up every close to the end of its drain.
 */
export function draining(server: Server): Drain {
  /** By connection its latest answer; undefined before the first request. */
  const answers = new Map<Socket, ServerResponse | undefined>();
  let isClosing = false;
  server.on("connection", (socket) => {
    answers.set(socket, undefined);
    socket.once("close", () => answers.delete(socket));
  });
  server.on("request", (request, response) => {
    answers.set(request.socket, response);
    if (isClosing) endsConnection(response);
  });
  return async (drainMs, endOpen) => {
    if (!server.listening) return;
    isClosing = true;
    for (const answer of answers.values()) if (answer !== undefined) endsConnection(answer);
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    await endOpen();
    for (const [socket, answer] of answers) if (answer === undefined) socket.destroy();
    server.closeIdleConnections();
    const force = setTimeout(() => server.closeAllConnections(), drainMs);
    await closed;
    clearTimeout(force);
  };
}

/** Has the connection closed once the answer is out; the client is told, where that is still possible. */
function endsConnection(answer: ServerResponse): void {
  if (!answer.headersSent) answer.setHeader("connection", "close");
  else if (!answer.writableFinished) answer.once("finish", () => answer.req.socket.end());
}
