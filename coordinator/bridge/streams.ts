/** Server-sent events (WHATWG HTML §9.2): writes them, keeps them alive, cuts off readers who fall behind. */
import type { ServerResponse } from "node:http";
import type { ServerSentEvent, StreamAnswer } from "./route.ts";

/** A stream's reader that is this far behind is cut off; it comes back with Last-Event-ID. */
const bufferBytesMax = 16 * 1024 * 1024;
/** Keeps proxies and NATs from closing an idle stream. */
const heartbeatMs = 15_000;

export class Streams {
  readonly #open = new Set<ServerResponse>();
  /** Events as they go out, by their data: what is told to many readers is written out once. */
  readonly #rendered = new WeakMap<object, { event: string; id: string | undefined; bytes: Buffer }>();

  /** Sends what `stream` gives until the client or `close` ends it. It is begun for nobody, too: it may hold something already. */
  serve({ stream }: StreamAnswer, response: ServerResponse): void {
    const forNobody = () => stream(() => {})();
    // The client left while what it asked for was looked up: that is not told again.
    if (response.destroyed) {
      forNobody();
      return;
    }
    // The connection's end is the stream's: without chunks each event is one write of bytes that others get, too.
    response.removeHeader("transfer-encoding");
    response.writeHead(200, {
      connection: "close",
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    response.flushHeaders();
    if (response.req.method === "HEAD") {
      response.end();
      forNobody();
      return;
    }
    this.#open.add(response);
    const write = (event: Buffer | string) => {
      if (response.writableLength > bufferBytesMax) {
        response.destroy();
        return;
      }
      response.write(event);
      // Node keeps it until this turn ends: of many readers the first would wait until the last is written to.
      response.socket?.uncork();
    };
    const heartbeat = setInterval(() => write(":\n\n"), heartbeatMs);
    let stop = () => {};
    response.on("close", () => {
      clearInterval(heartbeat);
      this.#open.delete(response);
      stop();
    });
    stop = stream((event) => write(this.#render(event)));
    if (response.destroyed) stop();
  }

  #render({ event, id, data }: ServerSentEvent): Buffer {
    const known = this.#rendered.get(data);
    if (known !== undefined && known.event === event && known.id === id) return known.bytes;
    const named = id === undefined ? "" : `id: ${id}\n`;
    const bytes = Buffer.from(`${named}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    this.#rendered.set(data, { event, id, bytes });
    return bytes;
  }

  close(): void {
    for (const response of this.#open) response.end();
  }
}
