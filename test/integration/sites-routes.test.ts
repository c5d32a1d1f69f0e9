import { expect } from "chai";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";

describe("the routes of sites and conflicts", function () {
  this.timeout(30_000);
  let site: RunningCoordinator;
  const peer = { name: "west", couchdbUrl: "http://ann:s3cret@127.0.0.1:1" };

  before(async () => {
    site = await startCoordinator({ site: "east" });
  });
  after(async () => await site?.close());

  it("list this site alone at first, with where its store is", async () => {
    const { status, body } = await site.call("GET", "/v1/sites");
    expect(status).to.equal(200);
    expect(body.sites).to.have.length(1);
    expect(body.sites[0]).to.include({ name: "east", self: true, state: "up", coordinatorUrl: site.url });
    expect(body.sites[0].couchdbUrl).to.match(/^http:\/\/127\.0\.0\.1:\d+$/);
  });

  it("take a peer, tell it again without its credentials, and let it go", async () => {
    const added = await site.call("POST", "/v1/sites", peer);
    expect(added.status).to.equal(201);
    expect(JSON.stringify(added.body)).to.not.include("s3cret");
    expect(added.body).to.include({ name: "west", peer: true, couchdbUrl: "http://127.0.0.1:1" });
    expect((await site.call("POST", "/v1/sites", peer)).status).to.equal(200);
    expect((await site.call("DELETE", "/v1/sites/west")).status).to.equal(204);
    expect((await site.call("DELETE", "/v1/sites/west")).status).to.equal(404);
  });

  it("wait for a change of the list", async () => {
    const { headers } = await site.call("GET", "/v1/sites");
    const known = { "if-none-match": headers.get("etag") ?? "" };
    expect((await site.call("GET", "/v1/sites?waitMs=50", undefined, known)).status).to.equal(304);
    const waiting = site.call("GET", "/v1/sites?waitMs=20000", undefined, known);
    await site.call("POST", "/v1/sites", peer);
    expect((await waiting).body.sites).to.have.length(2);
    await site.call("DELETE", "/v1/sites/west");
  });

  for (const [what, body, status] of [
    ["no URL", { name: "west" }, 400],
    ["a URL that is none", { name: "west", couchdbUrl: "couch" }, 400],
    ["a name that no site can have", { name: "West!", couchdbUrl: "http://x" }, 400],
    ["this site's own name", { name: "east", couchdbUrl: "http://x" }, 422],
    ["a broker's URL that is no AMQP", { name: "west", couchdbUrl: "http://x", amqpUrl: "http://x" }, 400],
  ] as const) {
    it(`refuse a peer with ${what}`, async () => {
      expect((await site.call("POST", "/v1/sites", body)).status).to.equal(status);
    });
  }

  it("list no conflicts where there are none, and know none by any id", async () => {
    expect((await site.call("GET", "/v1/conflicts")).body).to.deep.equal({ conflicts: [] });
    expect((await site.call("GET", "/v1/conflicts/abc")).status).to.equal(404);
    expect((await site.call("POST", "/v1/conflicts/abc/resolution", { choose: "1-a" })).status).to.equal(404);
    expect((await site.call("POST", "/v1/conflicts/abc/resolution", { choose: "1-a", value: 1 })).status).to.equal(400);
    expect((await site.call("POST", "/v1/conflicts/abc/resolution", {})).status).to.equal(400);
  });

  it("keep a peer's credentials out of the log", async () => {
    await site.call("POST", "/v1/sites", peer);
    await site.process.line(/the peer is unreachable/);
    expect(site.process.lines.join("\n")).to.not.include("s3cret");
    await site.call("DELETE", "/v1/sites/west");
  });
});
