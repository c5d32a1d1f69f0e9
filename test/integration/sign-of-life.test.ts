import { expect } from "chai";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

describe("a sign of life", () => {
  let coordinator: RunningCoordinator;
  before(async () => {
    coordinator = await startCoordinator();
  });
  after(() => coordinator?.close());

  const stateOf = async (id: string) => (await coordinator.call("GET", `/v1/components/${id}`)).body.state;

  it("is a poll of the own configuration, for as long as it waits", async () => {
    await coordinator.call("PUT", "/v1/components/follower", { type: "polls", ttlMs: 1_000 });
    const { headers } = await coordinator.call("GET", "/v1/components/follower/config");
    const known = { "if-none-match": headers.get("etag") ?? "" };
    const answer = await coordinator.call("GET", "/v1/components/follower/config?waitMs=3000", undefined, known);
    expect(answer.status).to.equal(304);
    expect(await stateOf("follower")).to.equal("up");
  });

  it("is told by who is superseded, at its next poll, and does not keep the newer process up", async () => {
    const put = (instance: string) =>
      coordinator.call("PUT", "/v1/components/twice", { type: "polls", ttlMs: 1_000, instance });
    await put("p1");
    const { headers } = await coordinator.call("GET", "/v1/components/twice/config");
    const known = { "if-none-match": headers.get("etag") ?? "" };
    const poll = (more = "") =>
      coordinator.call("GET", `/v1/components/twice/config?incarnation=1${more}`, undefined, known);
    expect((await poll()).status).to.equal(304);
    const waiting = poll("&waitMs=60000");
    await put("p2");
    await eventually(async () => {
      const { status, body } = await poll();
      expect([status, body.code]).to.deep.equal([409, "superseded"]);
      expect(await stateOf("twice")).to.equal("expired");
    });
    expect(await waiting).to.deep.include({ status: 409 });
  });

  it("is not a look at somebody's configuration", async () => {
    await coordinator.call("PUT", "/v1/components/silent", { type: "polls", ttlMs: 1_000 });
    await eventually(async () => {
      await coordinator.call("GET", "/v1/components/silent/config");
      expect(await stateOf("silent")).to.equal("expired");
    });
  });
});
