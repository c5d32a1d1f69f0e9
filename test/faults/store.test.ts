import { expect } from "chai";
import nock from "nock";
import { isMusterError } from "../../config-db/errors.ts";
import { Store } from "../../config-db/store.ts";

// It takes HTTP over as soon as it is imported: the tests of other files are to have the real one.
nock.restore();

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

  const failure = async (asked: Promise<unknown>) => {
    const error = await asked.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    if (!isMusterError(error)) throw new Error(`expected a MusterError, got ${error}`);
    return error;
  };

  for (const [status, code] of [
    [500, "store-unavailable"],
    [503, "store-unavailable"],
    [401, "store-unavailable"],
    [403, "refused"],
    [409, "conflict"],
    [412, "precondition-failed"],
    [413, "too-large"],
  ] as const) {
    it(`makes ${code} of ${status}`, async () => {
      nock(origin).put("/muster-config/a").reply(status, { error: "x", reason: "because" });
      const error = await failure(database.put({ _id: "a" }));
      expect(error.code).to.equal(code);
    });
  }

  it("is away when its answer is a page of a proxy", async () => {
    nock(origin).get("/muster-config/a").reply(502, "<html>Bad gateway</html>", { "content-type": "text/html" });
    expect((await failure(database.get("a"))).code).to.equal("store-unavailable");
  });

  it("is away when its connection breaks", async () => {
    nock(origin).get("/muster-config/a").replyWithError("socket hang up");
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
