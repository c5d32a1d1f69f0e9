import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

describe("a coordinator that does not lead, without a broker", function () {
  this.timeout(30_000);
  let embedded: Embedded;
  let follower: RunningCoordinator;
  let leader: RunningCoordinator;

  before(async () => {
    embedded = await startEmbedded();
    const options = { couchdbUrl: embedded.url, args: ["--operator-token", "one-for-all-of-the-site"] };
    follower = await startCoordinator(options);
    leader = await startCoordinator(options);
    // The newest leads; the other one follows when the feed has told it.
    await eventually(async () => {
      await register("c-first");
      expect((await at(leader, "PUT", "/v1/components/c-first/lease")).status).to.equal(200);
      const relayed = { "muster-relayed": "1" };
      expect((await at(follower, "PUT", "/v1/components/c-first/lease", {}, relayed)).body.code).to.equal(
        "not-leading",
      );
    });
  });
  after(async () => {
    await Promise.all([follower?.close(), leader?.close()]);
    await embedded?.close();
  });

  const at = (
    coordinator: RunningCoordinator,
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ) => coordinator.call(method, path, body, { authorization: "Bearer one-for-all-of-the-site", ...headers });
  const register = (id: string, more: Record<string, unknown> = {}) =>
    at(follower, "PUT", `/v1/components/${id}`, { type: "t", instance: "p1", ttlMs: 2_000, ...more });
  const stateOf = async (id: string) => (await at(leader, "GET", `/v1/components/${id}`)).body.state as string;
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  /** @returns how long after `sinceMs` it expired. */
  const expiry = async (id: string, sinceMs: number) => {
    await eventually(async () => expect(await stateOf(id)).to.equal("expired"));
    return performance.now() - sinceMs;
  };

  it("has registered nobody whom the other then gives the settings of a former registration", async () => {
    for (const n of [0, 1]) {
      const layer = await at(follower, "PUT", `/v1/config/layers/type:t${n}`, { settings: { n } });
      expect(layer.status).to.equal(201);
    }
    for (let times = 0; times < 60; times += 1) {
      await register("c-changes", { type: `t${times % 2}`, instance: `p${times}` });
      const config = "/v1/components/c-changes/config";
      const etag = (await at(follower, "GET", config)).headers.get("etag") ?? "";
      const { status, body } = await at(leader, "GET", config, undefined, { "if-none-match": etag });
      expect(status, JSON.stringify(body)).to.equal(304);
    }
  });

  it("takes renewals for the leader, and says what the leader says", async () => {
    await register("c-renews");
    for (let renewals = 0; renewals < 6; renewals += 1) {
      await pause(500);
      const renewed = await at(follower, "PUT", "/v1/components/c-renews/lease", { incarnation: 1 });
      expect(renewed.body).to.deep.equal({ expiresInMs: 2_000 });
    }
    const lastMs = performance.now();
    expect(await expiry("c-renews", lastMs)).to.be.above(1_950);
    const late = await at(follower, "PUT", "/v1/components/c-renews/lease", { incarnation: 1 });
    expect(late.body.code).to.equal("not-registered");
  });

  const signs: [string, (id: string) => Promise<unknown>][] = [
    ["poll", (id) => at(follower, "GET", `/v1/components/${id}/config`, undefined, { "if-none-match": '"none"' })],
    ["registration with the same words", (id) => register(id)],
  ];
  for (const [what, give] of signs) {
    it(`counts each ${what} as a renewal, however soon it follows another`, async () => {
      const id = `c-${what.split(" ")[0]}`;
      await register(id);
      await pause(1_000);
      await give(id);
      await pause(500);
      const lastMs = performance.now();
      await give(id);
      expect(await expiry(id, lastMs)).to.be.above(1_950);
    });
  }
});
