import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "chai";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { isMusterError } from "../../config-db/errors.ts";
import { type Change, type Database, type Document, Store } from "../../config-db/store.ts";
import { eventually } from "../support/eventually.ts";

/** What real stores do to a feed that lasts: cut it, end it, refuse it. */
describe("the changes feed of a store", () => {
  let server: Server;
  let database: Database<Document>;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;
  const asked: URL[] = [];
  const row = (seq: number, id: string) =>
    `${JSON.stringify({ seq, id, changes: [{ rev: "1-a" }], doc: { _id: id, _rev: "1-a" } })}\n`;

  beforeEach(async () => {
    asked.length = 0;
    server = createServer((request, response) => {
      asked.push(new URL(request.url ?? "/", "http://store"));
      answer(request, response);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    database = new Store(`http://admin:se%40cret@127.0.0.1:${port}`).database("muster-config");
  });
  afterEach(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  const follow = async () => {
    const pages: string[][] = [];
    try {
      for await (const { results } of database.follow(0, new AbortController().signal)) {
        pages.push(results.map(({ id }) => id));
      }
    } catch (error) {
      return { pages, error };
    }
    throw new Error("the feed ended without an error");
  };

  it("gives what came in together, over heartbeats and rows that come in pieces", async () => {
    answer = async ({ headers }, response) => {
      expect(headers.authorization).to.equal(`Basic ${Buffer.from("admin:se@cret").toString("base64")}`);
      const third = row(3, "c");
      response.write(`\n${row(1, "a")}${row(2, "b")}${third.slice(0, 20)}`);
      // In a packet of its own: what is written in one go is read in one go.
      await eventually(() => expect(response.writableLength).to.equal(0));
      setTimeout(() => response.end(third.slice(20)), 20);
    };
    const { pages, error } = await follow();
    expect(pages.flat()).to.deep.equal(["a", "b", "c"]);
    expect(pages[0], "the first page says that the store has answered").to.deep.equal([]);
    expect(isMusterError(error, "store-unavailable"), String(error)).to.equal(true);
  });

  it("gives characters whole that come in two pieces", async () => {
    const id = "ü€😀".repeat(40_000);
    const bytes = Buffer.from(row(1, id));
    answer = async (_request, response) => {
      // In odd pieces, each of which ends within a character now and then.
      for (let at = 0; at < bytes.length; at += 9_973) {
        response.write(bytes.subarray(at, at + 9_973));
        await new Promise((resolve) => setImmediate(resolve));
      }
      response.end();
    };
    const { pages } = await follow();
    expect(pages.flat()[0] === id).to.equal(true);
  });

  const faults: [string, typeof answer, RegExp][] = [
    ["a refusal", (_request, response) => response.writeHead(500).end('{"error":"x"}'), /"error":"x"/],
    ["wrong credentials", (_request, response) => response.writeHead(401).end(), /refuses the credentials/],
    ["a connection cut within a row", (_, response) => response.write('{"seq":1,', () => response.destroy()), /./],
    ["the feed's end", (_request, response) => response.end('{"last_seq":"7","pending":0}\n'), /feed ended: .*"7"/],
    ["an error in place of a row", (_request, response) => response.end('{"error":"timeout"}\n'), /timeout/],
    ["a page of a proxy", (_request, response) => response.end("<html>\n"), /./],
  ];
  for (const [what, misbehave, reason] of faults) {
    it(`takes ${what} for a store that is away`, async () => {
      answer = misbehave;
      const { error } = await follow();
      expect(isMusterError(error, "store-unavailable"), String(error)).to.equal(true);
      expect(String(error)).to.match(reason).and.not.include("se@cret");
    });
  }

  it("goes on after a cut from where it was, and says that it was lost and is back", async () => {
    const given: string[] = [];
    const states: string[] = [];
    answer = (request, response) => {
      const { searchParams } = new URL(request.url ?? "/", "http://store");
      if (searchParams.get("feed") !== "continuous")
        response
          .writeHead(200, { "content-type": "application/json" })
          .end('{"results":[],"last_seq":"0","pending":0}');
      else if (searchParams.get("since") === "0") response.write(row(1, "a"), () => response.destroy());
      else response.write(row(2, "b"));
    };
    const feed = new ChangesFeed(database, {
      onChanges: (changes: Change[]) => given.push(...changes.map(({ id }) => id)),
      onState: (lost) => states.push(lost === undefined ? "back" : "lost"),
    });
    await feed.start();
    await eventually(() => expect(given).to.deep.equal(["a", "b"]));
    await feed.close();
    expect(states).to.deep.equal(["lost", "back"]);
    expect(asked.map(({ searchParams }) => searchParams.get("since"))).to.deep.equal(["0", "0", "1"]);
  });

  it("is up to date when it has given what the store had, and while the store is away", async () => {
    const given: string[] = [];
    let stored = 0;
    let tell = () => {};
    answer = ({ url }, response) => {
      const { searchParams } = new URL(url ?? "/", "http://store");
      const rows = Number(searchParams.get("since")) < stored ? row(1, "a") : "";
      if (searchParams.get("feed") === "continuous") tell = () => response.write(row(1, "a"));
      else
        response
          .writeHead(200, { "content-type": "application/json" })
          .end(`{"results":[${rows}],"last_seq":${stored}}`);
    };
    const feed = new ChangesFeed(database, { onChanges: (changes) => given.push(...changes.map(({ id }) => id)) });
    await feed.start();
    await feed.upToDate();
    stored = 1;
    let isUpToDate = false;
    const waited = feed.upToDate().then(() => (isUpToDate = true));
    const looks = () => asked.filter(({ searchParams }) => searchParams.get("limit") === "1");
    await eventually(() => expect(looks()).to.have.length(2));
    expect(isUpToDate).to.equal(false);
    tell();
    await waited;
    expect(given).to.deep.equal(["a"]);
    answer = (_request, response) => response.destroy();
    await feed.upToDate();
    await feed.close();
  });

  it("asks the store once for all who ask while it is asked", async () => {
    const held: (() => void)[] = [];
    let holds = false;
    answer = (request, response) => {
      if (request.url?.includes("continuous") === true) return;
      const give = () =>
        response.writeHead(200, { "content-type": "application/json" }).end('{"results":[],"last_seq":"0"}');
      if (holds) held.push(give);
      else give();
    };
    const feed = new ChangesFeed(database, { onChanges: () => {} });
    await feed.start();
    holds = true;
    const first = feed.upToDate();
    await eventually(() => expect(held).to.have.length(1));
    const others = Promise.all([1, 2, 3].map(() => feed.upToDate()));
    held[0]?.();
    await first;
    await eventually(() => expect(held).to.have.length(2));
    held[1]?.();
    await others;
    expect(held).to.have.length(2);
    await feed.close();
  });

  it("keeps nobody who asks whether it is up to date waiting for a store that does not answer", async () => {
    answer = (request, response) => {
      if (request.url?.includes("continuous") === false) {
        response.writeHead(200, { "content-type": "application/json" }).end('{"results":[],"last_seq":"0"}');
      }
    };
    const feed = new ChangesFeed(database, { onChanges: () => {} });
    await feed.start();
    answer = () => {};
    await feed.upToDate();
    await feed.close();
  }).timeout(5_000);
});
