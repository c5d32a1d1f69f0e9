import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { isMusterError } from "../../config-db/errors.ts";
import { install } from "../../config-db/installer.ts";
import { Store } from "../../config-db/store.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { type Member, startMember } from "../support/site-member.ts";

describe("a registry whose store is away", () => {
  let embedded: Embedded;
  let proxy: FaultProxy;
  let member: Member;

  beforeEach(async () => {
    embedded = await startEmbedded();
    await install(new Store(embedded.url));
    proxy = await startProxy({ port: Number(new URL(embedded.url).port) });
    member = await startMember({ storeUrl: `http://127.0.0.1:${proxy.port}` });
  });
  afterEach(async () => {
    proxy?.heal();
    await member?.close();
    await proxy?.close();
    await embedded?.close();
  });

  const register = (id: string, ttlMs: number) => member.registry.register(id, { type: "t", instance: "p1", ttlMs });
  const stateOf = (id: string) => member.registry.get(id)?.state;

  it("renews and reads from memory, and tells new registrations when to come again", async () => {
    await register("steady", 1_000);
    proxy.cut();
    for (let renewals = 0; renewals < 15; renewals += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(await member.registry.renew("steady", { incarnation: 1 })).to.deep.equal({ expiresInMs: 1_000 });
      expect(member.registry.discover({ state: "up" }, { limit: 10 }).records).to.have.length(1);
    }
    const error = await register("new", 1_000).catch((thrown: unknown) => thrown);
    expect(isMusterError(error, "store-unavailable") && error.retryAfterMs).to.be.above(0);
    proxy.heal();
    await eventually(async () => expect(await register("new", 60_000)).to.include({ created: true }));
    expect(stateOf("steady")).to.equal("up");
  }).timeout(20_000);

  it("expires whom it could not when the store is back, and spares who came back meanwhile", async () => {
    await Promise.all([register("dead", 1_000), register("late", 1_000)]);
    proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    expect([stateOf("dead"), stateOf("late")]).to.deep.equal(["up", "up"]);
    await member.registry.renew("late");
    proxy.heal();
    await eventually(() => expect(stateOf("dead")).to.equal("expired"));
    expect(stateOf("late")).to.equal("up");
  }).timeout(20_000);

  it("takes the attempt to register for a sign of life", async () => {
    await register("restarted", 1_000);
    proxy.cut();
    for (let tries = 0; tries < 8; tries += 1) {
      await register("restarted", 1_000).catch(() => undefined);
      await member.registry.register("restarted", { type: "t", instance: "p2", ttlMs: 1_000 }).catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    const expired: string[] = [];
    member.registry.subscribe(({ kind, component }) => {
      if (kind === "expired") expired.push(component.id);
    });
    proxy.heal();
    await eventually(async () =>
      expect(
        (await member.registry.register("restarted", { type: "t", instance: "p2", ttlMs: 60_000 })).record,
      ).to.include({
        incarnation: 2,
      }),
    );
    expect(expired).to.deep.equal([]);
  }).timeout(20_000);
});

/** MUSTER_TEST_FULL=1: as long as a store's restart takes on a bad day. */
const awayMs = process.env.MUSTER_TEST_FULL === "1" ? 30_000 : 5_000;

describe("a coordinator whose store is away", function () {
  this.timeout(awayMs + 60_000);
  let embedded: Embedded;
  let proxy: FaultProxy;
  let coordinator: RunningCoordinator;

  before(async () => {
    embedded = await startEmbedded();
    proxy = await startProxy({ port: Number(new URL(embedded.url).port) });
    coordinator = await startCoordinator({ couchdbUrl: `http://127.0.0.1:${proxy.port}` });
  });
  after(async () => {
    proxy?.heal();
    await coordinator?.close();
    await proxy?.close();
    await embedded?.close();
  });

  const register = (id: string, ttlMs: number) =>
    coordinator.call("PUT", `/v1/components/${id}`, { type: "t", instance: "p1", ttlMs });

  it("answers reads and renewals, 503 to what must be written, and expires nobody for it", async () => {
    expect((await coordinator.call("PUT", "/v1/config/layers/type:t", { settings: { a: 1 } })).status).to.equal(201);
    for (const id of ["one", "two"]) expect((await register(id, 3_000)).status).to.equal(201);
    proxy.cut();
    const cutAtMs = performance.now();
    let refused = 0;
    while (performance.now() - cutAtMs < awayMs) {
      for (const id of ["one", "two"]) {
        const renewed = await coordinator.call("PUT", `/v1/components/${id}/lease`, { incarnation: 1 });
        expect(renewed.status, JSON.stringify(renewed.body)).to.equal(200);
        const config = await coordinator.call("GET", `/v1/components/${id}/config`);
        expect(config.body).to.deep.equal({ a: 1 });
      }
      expect((await coordinator.call("GET", "/v1/components?type=t")).body.components).to.have.length(2);
      const isNew = await register("three", 3_000);
      expect([isNew.status, isNew.body.code]).to.deep.equal([503, "store-unavailable"]);
      expect(Number(isNew.headers.get("retry-after"))).to.be.above(0);
      refused += 1;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    expect(refused).to.be.above(2);
    proxy.heal();
    await eventually(async () => expect((await register("three", 60_000)).status).to.be.oneOf([200, 201]), {
      timeoutMs: 20_000,
    });
    const { components } = (await coordinator.call("GET", "/v1/components?state=any")).body;
    const shown = components.map(
      ({ id, state, incarnation }: Record<string, unknown>) => `${id} ${state} ${incarnation}`,
    );
    expect(shown).to.include.members(["one up 1", "two up 1"]);
  });
});
