/** Server-sent events (WHATWG HTML §9.2): writes them, keeps them alive, cuts off readers who fall behind. */
import type { ServerResponse } from "node:http";
import type { StreamAnswer } from "./route.ts";

/** A stream's reader that is this far behind is cut off; it comes back with Last-Event-ID. */
const bufferBytesMax = 16 * 1024 * 1024;
/** Keeps proxies and NATs from closing an idle stream. */
const heartbeatMs = 15_000;

export class Streams {
  readonly #open = new Set<ServerResponse>();

  /** Sends what `stream` gives until the client or `close` ends it. */
  serve({ stream }: StreamAnswer, response: ServerResponse): void {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    response.flushHeaders();
    if (response.req.method === "HEAD") {
      response.end();
      return;
    }
    this.#open.add(response);
    const write = (text: string) => {
      if (response.writableLength > bufferBytesMax) response.destroy();
      else response.write(text);
    };
    const heartbeat = setInterval(() => write(":\n\n"), heartbeatMs);
    let stop = () => {};
    response.on("close", () => {
      clearInterval(heartbeat);
      this.#open.delete(response);
      stop();
    });
    stop = stream(({ event, id, data }) => {
      write(`${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    });
    if (response.destroyed) stop();
  }

  close(): void {
    for (const response of this.#open) response.end();
  }
}
