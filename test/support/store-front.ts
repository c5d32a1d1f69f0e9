/** A store as a coordinator reaches it over a bad network: single answers come late, single connections break. */
import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Held {
  /** Requests whose answers are held: the store has done what they ask. */
  readonly count: number;
  /** Lets them go, and holds no more. */
  release(): void;
}

export interface StoreFront {
  readonly url: string;
  /** Holds the answers to requests that match from now on; a feed that is open brings nothing more. */
  hold(matches: RegExp): Held;
  /** Breaks the connection of the next request that matches, before the store hears of it. @returns whether it has. */
  breakOnce(matches: RegExp): () => boolean;
  close(): Promise<void>;
}

/** Passes requests on to the store at `target`. What `matches` is held against is `GET /path?query`. */
export async function startStoreFront(target: string): Promise<StoreFront> {
  const held = new Set<{ matches: RegExp; waiting: (() => void)[]; count: number }>();
  const broken = new Set<{ matches: RegExp; done: boolean }>();
  const pass = (incoming: IncomingMessage, outgoing: ServerResponse) => {
    const line = `${incoming.method} ${decodeURIComponent(incoming.url ?? "")}`;
    const breaking = [...broken].find(({ matches, done }) => !done && matches.test(line));
    if (breaking !== undefined) {
      breaking.done = true;
      incoming.socket.destroy();
      return;
    }
    const { method = "GET", headers } = incoming;
    const onward = request(new URL(incoming.url ?? "", target), { method, headers }, (answer) => {
      const give = (write: () => void) => {
        const hold = [...held].find(({ matches }) => matches.test(line));
        if (hold === undefined) write();
        else hold.waiting.push(write);
      };
      const hold = [...held].find(({ matches }) => matches.test(line));
      if (hold !== undefined) hold.count += 1;
      give(() => outgoing.writeHead(answer.statusCode ?? 502, answer.headers).flushHeaders());
      answer.on("data", (chunk) => give(() => outgoing.write(chunk)));
      answer.on("end", () => give(() => outgoing.end()));
      answer.on("error", () => outgoing.destroy());
    });
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  };
  const server = createServer(pass).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hold: (matches) => {
      const holding = { matches, waiting: [], count: 0 };
      held.add(holding);
      return {
        get count() {
          return holding.count;
        },
        release: () => {
          held.delete(holding);
          for (const write of holding.waiting.splice(0) as (() => void)[]) write();
        },
      };
    },
    breakOnce: (matches) => {
      const breaking = { matches, done: false };
      broken.add(breaking);
      return () => breaking.done;
    },
    close: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}
