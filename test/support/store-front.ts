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
  /** Holds the answer to the next request that matches, and no other. */
  holdNext(matches: RegExp): Held;
  /** Breaks the connections of the next requests that match, before the store hears of them. @returns whether of all. */
  breakNext(matches: RegExp, times: number): () => boolean;
  /** Answers the next request that matches, in place of the store. @returns whether it has. */
  answerOnce(matches: RegExp, status: number, body: unknown): () => boolean;
  close(): Promise<void>;
}

interface Holding {
  matches: RegExp;
  /** The one request that it is for; absent: all. */
  only?: { request: IncomingMessage | undefined };
  waiting: (() => void)[];
  count: number;
}

interface Fault {
  matches: RegExp;
  /** How often it is still to be met. */
  left: number;
  /** Absent: the connection breaks. */
  answer: { status: number; body: string } | undefined;
}

/** Passes requests on to the store at `target`. What `matches` is held against is `GET /path?query`. */
export async function startStoreFront(target: string): Promise<StoreFront> {
  const held = new Set<Holding>();
  const hold = (holding: Holding): Held => {
    held.add(holding);
    return {
      get count() {
        return holding.count;
      },
      release: () => {
        held.delete(holding);
        for (const write of holding.waiting.splice(0)) write();
      },
    };
  };
  const faults = new Set<Fault>();
  const faultNext = (matches: RegExp, left: number, answer?: Fault["answer"]) => {
    const fault = { matches, left, answer };
    faults.add(fault);
    return () => fault.left === 0;
  };
  const pass = (incoming: IncomingMessage, outgoing: ServerResponse) => {
    const line = `${incoming.method} ${decodeURIComponent(incoming.url ?? "")}`;
    const fault = [...faults].find(({ matches, left }) => left > 0 && matches.test(line));
    if (fault !== undefined) {
      fault.left -= 1;
      if (fault.answer === undefined) incoming.socket.destroy();
      else outgoing.writeHead(fault.answer.status, { "content-type": "application/json" }).end(fault.answer.body);
      return;
    }
    const { method = "GET", headers } = incoming;
    const holding = () =>
      [...held].find(({ matches, only }) => {
        if (!matches.test(line)) return false;
        if (only === undefined) return true;
        only.request ??= incoming;
        return only.request === incoming;
      });
    const onward = request(new URL(incoming.url ?? "", target), { method, headers }, (answer) => {
      const give = (write: () => void) => {
        const hold = holding();
        if (hold === undefined) write();
        else hold.waiting.push(write);
      };
      const hold = holding();
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
    hold: (matches) => hold({ matches, waiting: [], count: 0 }),
    holdNext: (matches) => hold({ matches, only: { request: undefined }, waiting: [], count: 0 }),
    breakNext: (matches, times) => faultNext(matches, times),
    answerOnce: (matches, status, body) => faultNext(matches, 1, { status, body: JSON.stringify(body) }),
    close: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}
