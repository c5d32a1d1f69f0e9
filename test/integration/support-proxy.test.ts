import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { expect } from "chai";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

/** What a client has seen of its connection. */
interface Seen {
  socket: Socket;
  text: string;
  end: "open" | "ended" | "reset";
}

describe("the proxy for faults", () => {
  let echo: Server;
  let proxy: FaultProxy;
  const clients: Seen[] = [];
  const arrived: string[] = [];

  before(async () => {
    echo = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.on("data", (data) => {
        arrived.push(data.toString());
        socket.write(data);
      });
    });
    await once(echo.listen(0, "127.0.0.1"), "listening");
    const address = echo.address();
    if (address === null || typeof address === "string") throw new Error("a TCP server has a port");
    proxy = await startProxy({ port: address.port });
  });

  afterEach(() => {
    proxy.heal();
    for (const { socket } of clients) socket.destroy();
    clients.length = 0;
    arrived.length = 0;
  });

  after(async () => {
    await proxy.close();
    echo.close();
    await once(echo, "close");
  });

  async function open(): Promise<Seen> {
    const seen = dial();
    await once(seen.socket, "connect");
    return seen;
  }

  function dial(): Seen {
    const seen: Seen = { socket: connect(proxy.port, "127.0.0.1"), text: "", end: "open" };
    clients.push(seen);
    seen.socket.on("data", (data) => {
      seen.text += data.toString();
    });
    seen.socket.on("end", () => {
      seen.end = "ended";
    });
    seen.socket.on("error", () => {
      seen.end = "reset";
    });
    return seen;
  }

  async function echoes(seen: Seen, text: string): Promise<void> {
    const before = seen.text;
    seen.socket.write(text);
    await eventually(() => expect(seen.text).to.equal(before + text));
  }

  it("passes everything on while it is well", async () => {
    const client = await open();
    await echoes(client, "hello");
    expect(proxy.connections).to.equal(1);
  });

  it("cuts what is open and what comes, until it is healed", async () => {
    const client = await open();
    await echoes(client, "a");
    proxy.cut();
    await eventually(() => expect(client.end).to.equal("reset"));
    const during = dial();
    await eventually(() => expect(during.end).to.equal("reset"));
    proxy.heal();
    await echoes(await open(), "b");
  });

  it("lets only the requests through when answers are swallowed", async () => {
    const client = await open();
    await echoes(client, "a");
    proxy.swallow("down");
    client.socket.write("b");
    await eventually(() => expect(arrived.join("")).to.equal("ab"));
    expect([client.text, client.end]).to.deep.equal(["a", "open"]);
  });

  it("tells neither side anything while both ways are swallowed", async () => {
    const client = await open();
    await echoes(client, "a");
    proxy.swallow("up", "down");
    const finished = once(client.socket, "finish");
    client.socket.end("b");
    await finished;
    const other = await open();
    expect([client.end, other.end]).to.deep.equal(["open", "open"]);
    expect(arrived.join("")).to.equal("a");
  });

  it("holds everything back and keeps its order", async () => {
    const client = await open();
    await echoes(client, "x");
    proxy.slow(50);
    const begunAt = performance.now();
    for (const letter of "abcdef") client.socket.write(letter);
    await eventually(() => expect(client.text).to.equal("xabcdef"));
    expect(performance.now() - begunAt).to.be.at.least(95);
  });
});
