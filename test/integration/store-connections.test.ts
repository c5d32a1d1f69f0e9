import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { expect } from "chai";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { isMusterError } from "../../config-db/errors.ts";
import { type Document, Store } from "../../config-db/store.ts";

/** A server that closes a connection which it kept, just as the next request comes on it. */
describe("a connection to the store that was kept and is closed just as it is used again", () => {
  let server: Server;
  let store: Store;
  /** Of each request that came, by method, whether it was the first on its connection. */
  const came: { method: string; isFirst: boolean }[] = [];

  beforeEach(async () => {
    came.length = 0;
    const used = new Set<Socket>();
    server = createServer((request, response) => {
      const { socket, method = "" } = request;
      came.push({ method, isFirst: !used.has(socket) });
      if (used.has(socket)) {
        socket.end();
        return;
      }
      used.add(socket);
      request.resume();
      request.once("end", () => {
        response.setHeader("content-type", "application/json");
        response.end(JSON.stringify({ rows: [], results: [], last_seq: "7-x", ok: true, rev: "1-a" }));
      });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    store = new Store(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  });
  afterEach(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  const database = () => store.database<Document>("muster-config");

  /** Asks until a request comes on a connection that was used before: the client says not when it keeps one. */
  const askUntilReused = async <Answer>(ask: () => Promise<Answer>): Promise<Answer> => {
    for (;;) {
      const answer = await ask();
      if (came.some(({ isFirst }) => !isFirst)) return answer;
      await turn();
    }
  };

  it("costs a read nothing: it is asked again on another", async () => {
    expect(await askUntilReused(() => database().changes(0))).to.include({ last_seq: "7-x" });
    expect(came.at(-1)).to.deep.equal({ method: "GET", isFirst: true });
    came.length = 0;
    expect(await askUntilReused(() => database().getMany(["a"]))).to.deep.equal([]);
  });

  it("is told to who writes: whether the store has it nobody knows", async () => {
    const error = await askUntilReused(() =>
      database()
        .deleteAttachment("a", "1-a", "data")
        .catch((e) => e),
    );
    expect(isMusterError(error, "store-unavailable"), String(error)).to.equal(true);
    expect(came.at(-1)).to.deep.equal({ method: "DELETE", isFirst: false });
  });
});

describe("the embedded store", () => {
  it("keeps a connection that nobody uses for longer than clients do", async () => {
    const embedded = await startEmbedded();
    try {
      const socket = connect(Number(new URL(embedded.url).port), "127.0.0.1");
      const [head] = await Promise.all([
        once(socket, "data").then(([bytes]) => String(bytes)),
        once(socket, "connect").then(() => socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n")),
      ]);
      socket.destroy();
      const [, seconds] = /^keep-alive: timeout=(\d+)/im.exec(head) ?? [];
      expect(Number(seconds)).to.be.at.least(60);
    } finally {
      await embedded.close();
    }
  });

  it("has its refusals told without saying where it stands", async () => {
    const embedded = await startEmbedded();
    try {
      const store = new Store(embedded.url);
      await store.request({ method: "PUT", path: "some" });
      const error = await store
        .database<Document>("some")
        .put({ _id: "_bad" })
        .catch((e) => e);
      expect(isMusterError(error, "refused"), String(error)).to.equal(true);
      expect(error.message).to.not.include(new URL(embedded.url).host);
      expect(error.message).to.include("PUT some/_bad");
    } finally {
      await embedded.close();
    }
  });
});
