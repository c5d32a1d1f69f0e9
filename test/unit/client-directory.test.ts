import { expect } from "chai";
import { Bridge } from "../../clients/typescript/src/bridge.ts";
import { Directory, type MembershipChange } from "../../clients/typescript/src/directory.ts";
import { silent } from "../../clients/typescript/src/logger.ts";
import { eventually } from "../support/eventually.ts";
import { FakeCoordinator, problem } from "../support/fake-coordinator.ts";

describe("the client's directory", () => {
  let coordinator: FakeCoordinator;
  let directory: Directory;

  beforeEach(async () => {
    coordinator = new FakeCoordinator();
    coordinator.components = [record("a"), record("b")];
    await coordinator.start();
    directory = new Directory(new Bridge({ urls: [coordinator.url] }), silent);
  });
  afterEach(async () => {
    directory.close();
    await coordinator.stop();
  });

  const ids = async (query = {}) => (await directory.discover(query)).map(({ id }) => id);
  const streams = () => coordinator.requests.filter(({ path }) => path === "/v1/components");

  it("asks once and then answers from memory", async () => {
    expect(await ids({ type: "t" })).to.deep.equal(["a", "b"]);
    expect(await ids({ type: "t" })).to.deep.equal(["a", "b"]);
    expect(streams()).to.have.lengthOf(1);
  });

  it("asks what the query says, in the bridge's words", async () => {
    await ids({ type: "t", tags: ["y", "x"], metadata: { zone: 3 }, health: "passing" });
    expect(Object.fromEntries(streams()[0]?.query ?? [])).to.deep.equal({
      type: "t",
      tag: "x,y",
      "metadata.zone": "3",
      health: "passing",
    });
  });

  it("answers more queries at once than it follows, and follows no more of them then", async () => {
    const queries = Array.from({ length: 100 }, (_, n) => ({ type: `t${n}` }));
    const answers = await Promise.all(queries.map((query) => ids(query)));
    expect(answers).to.deep.equal(queries.map(() => ["a", "b"]));
    await eventually(() => expect(coordinator.streamsOf("/components")).to.equal(64));
  });

  it("follows a query that is watched beyond them until nobody watches it", async () => {
    const stop = directory.watch({ type: "watched" }, () => undefined);
    await Promise.all(Array.from({ length: 64 }, (_, n) => ids({ type: `t${n}` })));
    await eventually(() => expect(coordinator.streamsOf("/components")).to.equal(65));
    stop();
    await eventually(() => expect(coordinator.streamsOf("/components")).to.equal(64));
  });

  it("follows what comes, changes and goes", async () => {
    await ids();
    for (const [event, component] of [
      ["up", record("c")],
      ["changed", { ...record("a"), version: "2" }],
      ["expired", record("b", "expired")],
    ] as const) {
      coordinator.send("/components", event, component);
    }
    await eventually(async () => expect(await ids()).to.deep.equal(["a", "c"]));
    expect((await directory.discover())[0]?.version).to.equal("2");
    coordinator.send("/components", "removed", record("a"));
    await eventually(async () => expect(await ids()).to.deep.equal(["c"]));
  });

  for (const state of ["up", "expired", "gone"] as const) {
    it(`goes on listing those that were ${state} when their site is not heard`, async () => {
      coordinator.components = [record("a", state), record("b", state)];
      const listed = async () => (await directory.discover({ state })).map(({ id, ...told }) => `${id} ${told.state}`);
      expect(await listed()).to.deep.equal([`a ${state}`, `b ${state}`]);
      coordinator.send("/components", "unverified", { ...record("a", "unverified"), lastKnownState: state });
      await eventually(async () => expect(await listed()).to.deep.equal(["a unverified", `b ${state}`]));
    });
  }

  it("lists who is not heard for as long as that is so", async () => {
    coordinator.components = [];
    expect(await ids({ state: "unverified" })).to.deep.equal([]);
    coordinator.send("/components", "unverified", { ...record("a", "unverified"), lastKnownState: "expired" });
    await eventually(async () => expect(await ids({ state: "unverified" })).to.deep.equal(["a"]));
    coordinator.send("/components", "expired", record("a", "expired"));
    await eventually(async () => expect(await ids({ state: "unverified" })).to.deep.equal([]));
  });

  it("answers with the last known when the coordinator is away, and is right again when it is back", async () => {
    await ids();
    await coordinator.stop();
    expect(await ids()).to.deep.equal(["a", "b"]);
    coordinator.components = [record("b")];
    await coordinator.start();
    await eventually(async () => expect(await ids()).to.deep.equal(["b"]));
  });

  it("resumes a stream where it was", async () => {
    await ids();
    coordinator.send("/components", "up", record("c"), "run-7");
    await eventually(async () => expect(await ids()).to.include("c"));
    await coordinator.stop();
    await coordinator.start();
    await eventually(() => expect(streams().at(-1)?.headers["last-event-id"]).to.equal("run-7"));
  });

  it("tells what the coordinator refuses, and asks anew the next time", async () => {
    coordinator.override = () => problem(400, "unknown-parameter");
    const error = await directory.discover().catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "unknown-parameter" });
    coordinator.override = undefined;
    expect(await ids()).to.deep.equal(["a", "b"]);
  });

  it("tells watchers the list first and then each change", async () => {
    const changes: MembershipChange[] = [];
    const stop = directory.watch({}, (change) => void changes.push(change));
    await eventually(() => expect(changes).to.have.lengthOf(1));
    coordinator.send("/components", "up", record("c"));
    await eventually(() => expect(changes).to.have.lengthOf(2));
    expect(changes.map(({ kind }) => kind)).to.deep.equal(["reset", "up"]);
    expect(changes[1]?.component?.id).to.equal("c");
    expect(changes[1]?.components).to.have.lengthOf(3);
    stop();
    coordinator.send("/components", "up", record("d"));
    await eventually(async () => expect(await ids()).to.include("d"));
    expect(changes).to.have.lengthOf(2);
  });

  it("survives a watcher that throws", async () => {
    directory.watch({}, () => {
      throw new Error("a bug");
    });
    expect(await ids()).to.deep.equal(["a", "b"]);
  });

  it("picks in turn, and skips one that was reported to fail", async () => {
    const first = await directory.pick({});
    first.fail();
    const picked = [];
    for (let count = 0; count < 3; count += 1) {
      const { component, release } = await directory.pick({});
      picked.push(component.id);
      release();
    }
    expect(first.component.id).to.equal("a");
    expect(picked).to.deep.equal(["b", "b", "b"]);
  });

  it("picks the one with the fewest outstanding", async () => {
    const held = await directory.pick({}, { strategy: "least-outstanding" });
    const next = await directory.pick({}, { strategy: "least-outstanding" });
    expect([held.component.id, next.component.id]).to.have.members(["a", "b"]);
    held.release();
    const third = await directory.pick({}, { strategy: "least-outstanding" });
    expect(third.component.id).to.equal(held.component.id);
  });

  it("says when there is nobody to pick", async () => {
    coordinator.components = [];
    const error = await directory.pick({ type: "t" }).catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "no-such-target" });
  });

  it("follows a bounded number of queries", async () => {
    for (let count = 0; count < 70; count += 1) await ids({ type: `t${count}` });
    await eventually(() => expect(coordinator.streamsOf("/components")).to.equal(64));
  });
});

function record(id: string, state = "up"): Record<string, unknown> {
  return { id, type: "t", site: "s", state, ttlMs: 1_000, incarnation: 1, tags: [], endpoints: {} };
}
