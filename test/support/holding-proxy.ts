import { once } from "node:events";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";

/** An HTTP proxy before a store that holds back answers which the store has given: as of a slow network. */
export interface HoldingProxy {
  url: string;
  /**
   * Holds back the answer to the next request that `matches`.
   * @returns `answered` resolves when the store has given it, `release` lets it pass.
   */
  hold(matches: (method: string, path: string) => boolean): { answered: Promise<void>; release(): void };
  close(): Promise<void>;
}

/** Resolves when it listens. */
export async function startHoldingProxy(targetUrl: string): Promise<HoldingProxy> {
  const holds = new Set<{
    matches: (method: string, path: string) => boolean;
    answered: () => void;
    released: Promise<void>;
  }>();
  const server = createServer((asked, answer) => {
    const { method = "GET", url: path = "/", headers } = asked;
    const hold = [...holds].find(({ matches }) => matches(method, decodeURIComponent(path)));
    if (hold !== undefined) holds.delete(hold);
    const passed = request(new URL(path, targetUrl), { method, headers }, async (given) => {
      if (hold !== undefined) {
        const bytes = await given.toArray();
        hold.answered();
        await hold.released;
        answer.writeHead(given.statusCode ?? 500, given.headers);
        answer.end(Buffer.concat(bytes));
        return;
      }
      answer.writeHead(given.statusCode ?? 500, given.headers);
      given.pipe(answer);
    });
    passed.on("error", () => answer.destroy());
    answer.on("close", () => passed.destroy());
    asked.pipe(passed);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hold: (matches) => {
      let release = () => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      const answered = new Promise<void>((resolve) => holds.add({ matches, answered: resolve, released }));
      return { answered, release };
    },
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
