import { createServer, type Server, type Socket } from "node:net";
import { expect } from "chai";
import { useVhost } from "../support/broker.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { eventually } from "../support/eventually.ts";
import { command, useMessaging } from "./messaging-fixture.ts";

describe("a webhook that does not answer as it should", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, { webhookTimeoutMs: 1_500, retry: { attemptsMax: 1 } });
  let endpoint: Server;
  const sockets = new Set<Socket>();
  let misbehave: (socket: Socket) => void = () => undefined;

  before((done) => {
    endpoint = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => undefined).on("close", () => sockets.delete(socket));
      socket.once("data", () => misbehave(socket));
    });
    endpoint.listen(0, "127.0.0.1", done);
  });
  after((done) => {
    for (const socket of sockets) socket.destroy();
    endpoint.close(done);
  });

  const faults: [what: string, reason: RegExp, misbehave: (socket: Socket) => void][] = [
    // Waited for across a collection, which is when a time limit may get lost.
    ["stays silent", /no answer within 1500 ms/, collectGarbage],
    ["says what is no HTTP", /HTTPParserError/, (socket) => socket.end("what?\r\n\r\n")],
    [
      "never ends its answer",
      /more than 1048576 bytes/,
      (socket) => {
        socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        const chunk = `10000\r\n${"x".repeat(0x10000)}\r\n`;
        const more = () => {
          while (!socket.destroyed && socket.write(chunk));
        };
        socket.on("drain", more);
        more();
      },
    ],
  ];
  for (const [what, reason, misbehaviour] of faults) {
    it(`fails the message, and takes the next: it ${what}`, async () => {
      misbehave = misbehaviour;
      const { port } = endpoint.address() as { port: number };
      const webhook = { url: `http://127.0.0.1:${port}/`, secret: "0123456789abcdef" };
      const { id } = site.members.add({ webhook });
      const { sender, deadLetters } = site.messaging;
      for (const name of ["first", "second"])
        await sender.send(sender.plan({ component: id }, "command"), command(name));
      await eventually(
        async () => {
          const { deadLetters: items } = await deadLetters.list({ match: { to: id }, limit: 10 });
          expect(items.map((letter) => letter.name)).to.have.members(["first", "second"]);
          for (const letter of items) expect(letter.reason).to.match(reason);
        },
        { timeoutMs: 20_000 },
      );
    });
  }
});
