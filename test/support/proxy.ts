import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

export interface ProxyTarget {
  host?: string;
  port: number;
}

/** Which way bytes go: `up` from the client to the target, `down` back. */
export type Direction = "up" | "down";

/**
 * A TCP proxy for faults between a client and a server, both real. Each fault holds for the open connections and for
 * the ones made while it lasts; `heal()` ends them all.
 */
export class FaultProxy {
  readonly port: number;
  private readonly server: Server;
  private readonly target: ProxyTarget;
  private readonly links = new Set<Link>();
  private readonly faults: Faults = { refused: false, swallowed: new Set(), delayMs: 0 };

  /** Use `startProxy`. */
  constructor(server: Server, port: number, target: ProxyTarget) {
    this.server = server;
    this.port = port;
    this.target = target;
    server.on("connection", (client) => this.accept(client));
  }

  /** Resets every connection, and each new one at once, as when the target's machine restarts. */
  cut(): void {
    this.faults.refused = true;
    this.reset();
  }

  /** Resets the open connections once; new ones pass. */
  reset(): void {
    for (const link of this.links) link.reset();
  }

  /**
   * Swallows what goes that way, and that side's closing with it, while the connection looks open: a one-way link. Both
   * directions make it half-open, like a pulled cable: neither side is told anything.
   */
  swallow(...directions: Direction[]): void {
    for (const direction of directions) this.faults.swallowed.add(direction);
  }

  /** Holds every piece back for so long, in both directions. The order is kept. */
  slow(delayMs: number): void {
    this.faults.delayMs = delayMs;
  }

  /** Lets new connections pass again. What was swallowed is lost, so connections that were open then are reset. */
  heal(): void {
    const lossy = this.faults.swallowed.size > 0;
    this.faults.refused = false;
    this.faults.delayMs = 0;
    this.faults.swallowed.clear();
    if (lossy) this.reset();
  }

  /** Connections that are open now. */
  get connections(): number {
    return this.links.size;
  }

  async close(): Promise<void> {
    this.reset();
    if (!this.server.listening) return;
    this.server.close();
    await once(this.server, "close");
  }

  private accept(client: Socket): void {
    client.on("error", () => undefined);
    if (this.faults.refused) {
      client.resetAndDestroy();
      return;
    }
    const link = new Link(
      client,
      connect({ host: this.target.host ?? "127.0.0.1", port: this.target.port }),
      this.faults,
    );
    this.links.add(link);
    client.once("close", () => this.links.delete(link));
  }
}

/** Starts a proxy on a free port of the loopback interface. */
export async function startProxy(target: ProxyTarget): Promise<FaultProxy> {
  const server = createServer({ allowHalfOpen: true, noDelay: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("a TCP server has a port");
  return new FaultProxy(server, address.port, target);
}

interface Faults {
  refused: boolean;
  swallowed: Set<Direction>;
  delayMs: number;
}

class Link {
  private readonly client: Socket;
  private readonly upstream: Socket;
  private readonly timers = new Set<NodeJS.Timeout>();

  constructor(client: Socket, upstream: Socket, faults: Faults) {
    this.client = client;
    this.upstream = upstream;
    upstream.setNoDelay(true);
    upstream.allowHalfOpen = true;
    upstream.on("error", () => client.resetAndDestroy());
    client.on("error", () => upstream.resetAndDestroy());
    this.pipe(client, upstream, "up", faults);
    this.pipe(upstream, client, "down", faults);
  }

  reset(): void {
    for (const timer of this.timers) clearTimeout(timer);
    this.client.resetAndDestroy();
    this.upstream.resetAndDestroy();
  }

  private pipe(from: Socket, to: Socket, direction: Direction, faults: Faults): void {
    const forward = (act: () => void) => {
      if (faults.swallowed.has(direction)) return;
      // Pieces that are already on their way keep their place when the delay is taken away.
      if (faults.delayMs === 0 && this.timers.size === 0) {
        act();
        return;
      }
      const timer = setTimeout(
        () => {
          this.timers.delete(timer);
          act();
        },
        Math.max(1, faults.delayMs),
      );
      // What is still on its way when the tests are over keeps no process alive.
      timer.unref();
      this.timers.add(timer);
    };
    from.on("data", (chunk) => forward(() => void to.write(chunk)));
    from.on("end", () => forward(() => to.end()));
  }
}
