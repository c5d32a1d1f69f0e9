import { once } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "chai";
import nock from "nock";
import { isMusterError } from "../../config-db/errors.ts";
import { type Database, type Document, Store } from "../../config-db/store.ts";

// It takes HTTP over as soon as it is imported: the tests of other files are to have the real one.
nock.restore();

const codes = [
  [500, "store-unavailable"],
  [503, "store-unavailable"],
  [401, "store-unavailable"],
  [403, "refused"],
  [409, "conflict"],
  [412, "precondition-failed"],
  [413, "too-large"],
] as const;

async function failure(asked: Promise<unknown>) {
  const error = await asked.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isMusterError(error)) throw new Error(`expected a MusterError, got ${error}`);
  return error;
}

/** A CouchDB that does what a real one would not do when asked to. */
describe("a store that misbehaves", () => {
  const origin = "http://couch.example:5984";
  const store = new Store("http://admin:secret@couch.example:5984");
  const database = store.database("muster-config");

  before(() => {
    nock.activate();
    nock.disableNetConnect();
  });
  afterEach(() => nock.cleanAll());
  after(() => {
    nock.enableNetConnect();
    nock.restore();
  });

  for (const [status, code] of codes.filter(([, code]) => code !== "conflict")) {
    it(`makes ${code} of ${status}`, async () => {
      nock(origin).get("/muster-config/a").reply(status, { error: "x", reason: "because" });
      const error = await failure(database.get("a"));
      expect(error.code).to.equal(code);
      expect(error.message).to.include("because");
    });
  }

  it("is away when its answer is a page of a proxy", async () => {
    nock(origin).get("/muster-config/a").reply(502, "<html>Bad gateway</html>", { "content-type": "text/html" });
    expect((await failure(database.get("a"))).code).to.equal("store-unavailable");
  });

  it("is away when its connection breaks", async () => {
    // A read is asked again twice.
    nock(origin).get("/muster-config/a").times(3).replyWithError("socket hang up");
    const error = await failure(database.get("a"));
    expect(error.code).to.equal("store-unavailable");
    expect(error.retryAfterMs).to.be.greaterThan(0);
  });

  it("has lost the feed when the feed's answer is cut in the middle", async () => {
    const cut = '{"results":[{"id":"a","seq":1,';
    nock(origin).get("/muster-config/_changes").query(true).reply(200, cut, { "content-type": "application/json" });
    expect((await failure(database.changes(0))).code).to.equal("store-unavailable");
  });

  it("is never named with its credentials", async () => {
    nock(origin).get("/muster-config/a").reply(500, { error: "x", reason: "because" });
    expect((await failure(database.get("a"))).message)
      .to.include("couch.example")
      .and.not.include("secret");
    expect(store.url).to.equal(origin);
  });
});

/** Writes go another way than reads (undici), which nock does not see. */
describe("a store that misbehaves when written to", () => {
  let server: Server;
  let database: Database<Document>;
  let answer: (response: ServerResponse) => void;

  before(async () => {
    server = createServer((request, response) => request.resume().on("end", () => answer(response)));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    database = new Store(`http://admin:secret@127.0.0.1:${port}`).database("muster-config");
  });
  after(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  for (const [status, code] of codes) {
    it(`makes ${code} of ${status}`, async () => {
      answer = (response) => response.writeHead(status).end('{"error":"x","reason":"because"}');
      const error = await failure(database.put({ _id: "a" }));
      expect(error.code).to.equal(code);
      if (code !== "conflict") expect(error.message).to.include("because").and.not.include("admin:");
    });
  }

  for (const [what, misbehave] of [
    ["its answer is a page of a proxy", (response) => response.writeHead(502).end("<html>Bad gateway</html>")],
    ["its answer says yes and is no JSON", (response) => response.writeHead(201).end("<html>welcome</html>")],
    ["its answer is cut in the middle", (response) => response.write('{"ok":', () => response.destroy())],
    ["its connection breaks", (response) => response.destroy()],
    ["it does not answer in time", () => {}],
  ] satisfies [string, (response: ServerResponse) => void][]) {
    it(`is away when ${what}, and says that nothing is known to be written`, async () => {
      answer = misbehave;
      const error = await failure(database.bulk([{ _id: "a" }], { timeoutMs: 100 }));
      expect(error.code).to.equal("store-unavailable");
      expect(error.message).to.include("nothing is known to be written");
      expect(error.retryAfterMs).to.be.greaterThan(0);
    });
  }

  it("is away when nothing listens, whatever the name stands for", async () => {
    const nobody = new Store("http://localhost:1").database("muster-config");
    const error = await failure(nobody.put({ _id: "a" }));
    expect(error.code).to.equal("store-unavailable");
    expect(error.message).to.include("ECONNREFUSED");
  });
});
