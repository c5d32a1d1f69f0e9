/** Closing an HTTP server at once where nobody waits for an answer. */
import type { Server } from "node:http";
import type { Socket } from "node:net";

/** Closes a server. @param endOpen ends the answers that would go on by themselves: streams and feeds. */
export type Drain = (drainMs: number, endOpen: () => void | Promise<void>) => Promise<void>;

/**
 * To be called before `server` listens.
 * @returns what closes it: takes no more connections, ends those that wait for nothing, and waits for answers under way, at
 *   most `drainMs`. Node's own `closeIdleConnections` leaves those that were opened and never used, as clients that keep
 *   a pool make, and they would hold up every close to the end of its drain.
 */
export function draining(server: Server): Drain {
  const unused = new Set<Socket>();
  server.on("connection", (socket) => {
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
  });
  server.on("request", (request) => unused.delete(request.socket));
  return async (drainMs, endOpen) => {
    if (!server.listening) return;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    await endOpen();
    for (const socket of unused) socket.destroy();
    server.closeIdleConnections();
    const force = setTimeout(() => server.closeAllConnections(), drainMs);
    await closed;
    clearTimeout(force);
  };
}
