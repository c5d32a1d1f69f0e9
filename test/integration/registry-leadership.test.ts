import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { MusterError } from "../../config-db/errors.ts";
import type { ComponentDocument, RenewalMessage, SiteDocument } from "../../config-db/generated/types.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { check } from "../../config-db/validate.ts";
import type { Leadership } from "../../coordinator/sites/leadership.ts";
import { codeOf } from "../support/codes.ts";
import { eventually } from "../support/eventually.ts";
import { type Member, type MemberOptions, PlayedContest, startMember } from "../support/site-member.ts";

describe("the coordinators of a site", () => {
  let embedded: Embedded;
  let sites = 0;
  let site: string;
  const members: Member[] = [];

  before(async () => {
    embedded = await startEmbedded();
    await install(new Store(embedded.url));
  });
  beforeEach(() => {
    sites += 1;
    site = `site-${sites}`;
  });
  afterEach(async () => {
    await Promise.all(members.splice(0).map((member) => member.close()));
  });
  after(async () => await embedded?.close());

  async function join(options: Partial<MemberOptions> = {}): Promise<Member> {
    const member = await startMember({ storeUrl: embedded.url, site, ...options });
    members.push(member);
    return member;
  }

  const siteRecord = () =>
    new Store(embedded.url).database<SiteDocument>(databases.registry).get<SiteDocument>(`site:${site}`);
  const tombstone = async (id: string) => {
    const database = new Store(embedded.url).database<ComponentDocument>(databases.registry);
    const [leaf] = await database.leaves(`component:${id}`);
    expect(leaf).to.include({ _deleted: true });
    return leaf;
  };
  const leads = ({ standing }: Leadership) => standing.role === "leading";

  it("follow the newest where there is no broker", async () => {
    const first = await join();
    expect(leads(first.leadership)).to.equal(true);
    const second = await join();
    expect(leads(second.leadership)).to.equal(true);
    await eventually(() => expect(leads(first.leadership)).to.equal(false));
    expect(first.leadership.epoch).to.equal(second.leadership.epoch);
    expect(await siteRecord()).to.include({ epoch: 2 });
  });

  it("take over without a broker when the leader's beat stops", async () => {
    const first = await join({ beatEveryMs: 100 });
    const second = await join({ beatEveryMs: 100 });
    await eventually(() => expect(leads(first.leadership)).to.equal(false));
    await second.close();
    await eventually(() => expect(leads(first.leadership)).to.equal(true));
    expect(first.leadership.epoch).to.equal(3);
  });

  it("leave the lead to the one that the broker chooses", async () => {
    const contests = [new PlayedContest(), new PlayedContest()] as const;
    const [first, second] = [await join({ contest: contests[0] }), await join({ contest: contests[1] })];
    contests[0].choose();
    await eventually(() => expect(leads(first.leadership)).to.equal(true));
    expect(leads(second.leadership)).to.equal(false);
    contests[1].choose();
    await eventually(() => expect(leads(second.leadership)).to.equal(true));
    await eventually(() => expect(leads(first.leadership)).to.equal(false));
  });

  it("let the beat of their leader advance", async () => {
    await join({ beatEveryMs: 100 });
    const { beat } = (await siteRecord()) as SiteDocument;
    await eventually(async () => expect((await siteRecord())?.beat).to.be.above(beat + 3));
  });

  it("take registrations and renewals at each of them, and the leader judges", async () => {
    const contest = new PlayedContest();
    const leader = await join({ contest });
    contest.choose();
    await eventually(() => expect(leads(leader.leadership)).to.equal(true));
    const follower = await join({
      contest: new PlayedContest(),
      publishRenewal: async (renewal: RenewalMessage) => leader.registry.hear(renewal),
    });
    await follower.registry.register("c-any", { type: "t", ttlMs: 1_000 });
    for (let renewals = 0; renewals < 12; renewals += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(await follower.registry.renew("c-any")).to.deep.equal({ expiresInMs: 1_000 });
    }
    expect(leader.registry.get("c-any")?.state).to.equal("up");
    await eventually(() => expect(follower.registry.get("c-any")?.state).to.equal("expired"));
    expect(await codeOf(follower.registry.renew("c-any"))).to.equal("not-registered");
  }).timeout(15_000);

  it("do not expire anybody before the renewals by message that were sent are heard", async () => {
    const asked: (() => void)[] = [];
    const renewalsHeard = () => new Promise<void>((resolve) => asked.push(resolve));
    const { registry } = await join({ renewalsHeard });
    await registry.register("c-renewed", { type: "t", ttlMs: 1_000 });
    await registry.register("c-unheard", { type: "t", ttlMs: 1_000 });
    await eventually(() => expect(asked).to.have.length(1));
    // Longer than a stall: whoever renewed is still being heard after that.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(registry.get("c-unheard")?.state).to.equal("up");
    registry.hear({ id: "c-renewed", incarnation: 1 });
    const renewing = setInterval(() => registry.hear({ id: "c-renewed", incarnation: 1 }), 200);
    asked.shift()?.();
    await eventually(() => expect(asked).to.have.length(1));
    expect(registry.get("c-unheard")?.state).to.equal("up");
    asked.shift()?.();
    await eventually(() => expect(registry.get("c-unheard")?.state).to.equal("expired"));
    expect(registry.get("c-renewed")?.state).to.equal("up");
    clearInterval(renewing);
  }).timeout(10_000);

  it("know at once what another has registered when its process renews here with its incarnation", async () => {
    const contest = new PlayedContest();
    const leader = await join({ contest });
    contest.choose();
    const renewals: RenewalMessage[] = [];
    const follower = await join({
      contest: new PlayedContest(),
      publishRenewal: async (message) => renewals.push(message),
    });
    await leader.registry.register("c-quick", { type: "t", ttlMs: 20_000 });
    expect(await codeOf(follower.registry.renew("c-quick", { incarnation: 1 }))).to.equal("none");
    await leader.registry.register("c-quick", { type: "t", ttlMs: 20_000, instance: "p2" });
    expect(await codeOf(follower.registry.renew("c-quick", { incarnation: 2 }))).to.equal("none");
    expect(renewals).to.deep.equal([
      { id: "c-quick", incarnation: 1 },
      { id: "c-quick", incarnation: 2 },
    ]);
  });

  it("tell a renewal that cannot reach the leader to try another", async () => {
    const first = await join();
    await first.registry.register("c-alone", { type: "t", ttlMs: 20_000 });
    await join();
    await eventually(() => expect(leads(first.leadership)).to.equal(false));
    expect(await codeOf(first.registry.renew("c-alone"))).to.equal("not-leading");
  });

  it("give everybody who is up a full TTL when the lead changes", async () => {
    const contests = [new PlayedContest(), new PlayedContest()] as const;
    const first = await join({ contest: contests[0] });
    contests[0].choose();
    await eventually(() => expect(leads(first.leadership)).to.equal(true));
    await first.registry.register("c-grace", { type: "t", ttlMs: 2_000 });
    const second = await join({ contest: contests[1] });
    await first.close();
    contests[1].choose();
    await eventually(() => expect(leads(second.leadership)).to.equal(true));
    const ledSince = performance.now();
    await eventually(() => expect(second.registry.get("c-grace")?.state).to.equal("expired"));
    expect(performance.now() - ledSince).to.be.above(1_950);
  }).timeout(15_000);

  it("take over what a leader had decided and did not live to write, and spare whoever registered since", async () => {
    const first = await join();
    for (const id of ["c-dead", "c-again"]) await first.registry.register(id, { type: "t", ttlMs: 60_000 });
    await first.leadership.decide(["c-dead", "c-again"].map((id) => ({ id, incarnation: 1, to: "expired" as const })));
    await first.registry.register("c-again", { type: "t", ttlMs: 60_000, instance: "p2" });
    await first.close();
    const second = await join();
    await eventually(() => expect(second.registry.get("c-dead")?.state).to.equal("expired"));
    expect(second.registry.get("c-again")).to.include({ state: "up", incarnation: 2 });
    await eventually(async () => expect(await siteRecord()).not.to.have.property("decided"));
  });

  it("expire nobody whom they have told that it is registered", async () => {
    const { registry, leadership } = await join();
    const register = () => registry.register("c-back", { type: "t", instance: "p1", ttlMs: 1_000 });
    await register();
    const decide = leadership.decide.bind(leadership);
    // Its process comes back while the expiry is decided, and not written yet.
    const again = new Promise<Awaited<ReturnType<typeof register>>>((resolve, reject) => {
      leadership.decide = async (decisions) => {
        await decide(decisions);
        if (decisions.length > 0) setImmediate(() => register().then(resolve, reject));
      };
    });
    const { record } = await again;
    await eventually(async () => expect(await siteRecord()).not.to.have.property("decided"));
    expect(registry.get("c-back")).to.include({ state: "up", incarnation: record.incarnation });
  }).timeout(20_000);

  it("refuse the decision of one that was replaced, even before it has heard of it", async () => {
    const first = await join();
    await first.registry.register("c-live", { type: "t", ttlMs: 60_000 });
    // The successor's claim, which the former leader has had no time to read from the feed.
    const database = new Store(embedded.url).database<SiteDocument>(databases.registry);
    const record = (await siteRecord()) as SiteDocument;
    await database.put({ ...record, epoch: record.epoch + 1, leader: "successor" });
    const decision = { id: "c-live", incarnation: 1, to: "expired" as const };
    expect(await codeOf(first.leadership.decide([decision]))).to.equal("not-leading");
    expect(leads(first.leadership)).to.equal(false);
    expect(await siteRecord())
      .to.include({ leader: "successor" })
      .and.not.to.have.property("decided");
  });

  it("go on judging after the leader lost the broker for good, after a time for clients to find the bridge", async () => {
    const contest = new PlayedContest();
    const leader = await join({ contest, deafMs: 1_500 });
    contest.choose();
    await eventually(() => expect(leads(leader.leadership)).to.equal(true));
    await leader.registry.register("c-deaf", { type: "t", ttlMs: 1_000 });
    contest.drop();
    const deafSince = performance.now();
    await eventually(() => expect(leader.registry.get("c-deaf")?.state).to.equal("expired"));
    expect(performance.now() - deafSince).to.be.above(2_400);
    expect(leads(leader.leadership)).to.equal(true);
  }).timeout(15_000);

  for (const withBroker of [true, false])
    it(`take the lead again of a site whose record was deleted (${withBroker ? "with" : "without"} a broker)`, async () => {
      const contest = new PlayedContest();
      const { leadership } = await join({ beatEveryMs: 100, ...(withBroker ? { contest } : {}) });
      if (withBroker) contest.choose();
      await eventually(() => expect(leads(leadership)).to.equal(true));
      const database = new Store(embedded.url).database<Document & Partial<SiteDocument>>(databases.registry);
      await eventually(async () => database.put({ ...((await siteRecord()) as SiteDocument), epoch: 1_000 }));
      await eventually(async () => {
        expect(leads(leadership)).to.equal(true);
        expect(await siteRecord()).to.include({ epoch: 1_001 });
      });
      await eventually(async () => database.put({ ...((await siteRecord()) as SiteDocument), _deleted: true }));
      await eventually(async () => {
        expect(leads(leadership)).to.equal(true);
        expect(await siteRecord()).to.include({ epoch: 1_002 });
      });
    }).timeout(30_000);

  it("put right what is written into the site's record past them", async () => {
    const own = await startEmbedded();
    try {
      const store = new Store(own.url);
      await install(store);
      const database = store.database<Document>(databases.registry);
      // A store whose guard lets it pass.
      const guard = (await database.get("_design/muster")) as Document;
      await database.put({ ...guard, _deleted: true });
      const { leadership } = await join({ storeUrl: own.url, beatEveryMs: 100 });
      const record = () => database.get<SiteDocument>(`site:${site}`);
      const wrong = [
        { beat: undefined },
        { beat: 2 ** 53 },
        { beat: "5" },
        { epoch: 2 ** 53 },
        { epoch: "next" },
        { beatEveryMs: 2 ** 40 },
        { coordinatorUrl: 7 },
      ];
      for (const fields of wrong) {
        const told = JSON.stringify(fields);
        await eventually(async () =>
          database.put(JSON.parse(JSON.stringify({ ...((await record()) as SiteDocument), ...fields }))),
        );
        const mended = await eventually(async () => {
          const found = (await record()) as SiteDocument;
          expect(check("site-document", found), told).to.deep.equal([]);
          expect(found.beatEveryMs, told).to.equal(100);
          expect(leads(leadership), told).to.equal(true);
          expect(Math.max(found.beat, found.epoch), told).to.be.below(2 ** 48);
          return found;
        });
        await eventually(async () => expect((await record())?.beat, told).to.be.above(mended.beat));
      }
    } finally {
      await Promise.all(members.splice(0).map((member) => member.close()));
      await own.close();
    }
  }).timeout(30_000);

  it("give the lead back to whom the broker has chosen", async () => {
    const contest = new PlayedContest();
    const chosen = await join({ contest, beatEveryMs: 100 });
    contest.choose();
    await eventually(() => expect(leads(chosen.leadership)).to.equal(true));
    await join({ beatEveryMs: 100 });
    await eventually(() => expect(chosen.leadership.epoch).to.be.at.least(3));
    expect(leads(chosen.leadership)).to.equal(true);
  });

  for (const jumpMs of [3_600_000, -3_600_000]) {
    it(`expire nobody who is alive when the clock jumps by ${jumpMs} ms, and the dead some time later`, async () => {
      let offsetMs = 10_000_000;
      const member = await join({ clock: () => performance.now() + offsetMs });
      const [live, dead] = [`c-live-${Math.abs(jumpMs)}-${jumpMs > 0}`, `c-dead-${jumpMs > 0}`];
      for (const id of [live, dead]) await member.registry.register(id, { type: "t", ttlMs: 1_000 });
      const renewing = setInterval(() => void member.registry.renew(live).catch(() => undefined), 300);
      offsetMs += jumpMs;
      await eventually(() => expect(member.registry.get(dead)?.state).to.equal("expired"), { timeoutMs: 20_000 });
      clearInterval(renewing);
      expect(member.registry.get(live)?.state).to.equal("up");
    }).timeout(30_000);
  }

  it("remove those whose retention is over, queues last", async () => {
    const first = await join();
    await first.registry.register("c-old", { type: "t", ttlMs: 60_000 });
    await first.registry.deregister("c-old");
    await first.close();
    const removed: (string | undefined)[] = [];
    const second = await join({
      retention: { goneMs: 0, expiredMs: 0 },
      remove: async ({ id }) => {
        removed.push(id, second.registry.get(id)?.state);
      },
    });
    await eventually(() => expect(removed).to.deep.equal(["c-old", undefined]));
    expect(second.registry.get("c-old")).to.equal(undefined);
  }).timeout(10_000);

  it("go on expiring while a removal waits for the broker, and finish it later", async () => {
    const first = await join();
    await first.registry.register("c-stuck", { type: "t", ttlMs: 60_000 });
    await first.registry.deregister("c-stuck");
    await first.close();
    let tries = 0;
    const second = await join({
      retention: { goneMs: 0, expiredMs: 60_000 },
      remove: () => {
        tries += 1;
        return Promise.reject(new MusterError("broker-unavailable", "away"));
      },
    });
    await eventually(() => expect(tries).to.equal(1));
    await second.registry.register("c-silent", { type: "t", ttlMs: 1_000 });
    await eventually(() => expect(second.registry.get("c-silent")?.state).to.equal("expired"));
    await eventually(async () => expect(await siteRecord()).not.to.have.property("decided"));
    expect(await tombstone("c-stuck")).to.include({ removing: true });
    await second.close();
    const removed: string[] = [];
    await join({ retention: { goneMs: 0, expiredMs: 60_000 }, remove: async ({ id }) => void removed.push(id) });
    await eventually(() => expect(removed).to.deep.equal(["c-stuck"]));
    await eventually(async () => expect(await tombstone("c-stuck")).not.to.have.property("removing"));
  }).timeout(20_000);

  /** Of a coordinator that does not live to take the queues away. */
  const neverRemoves = () => Promise.reject(new MusterError("broker-unavailable", "away"));

  it("finish a purge that another was killed in, but not of what is registered again", async () => {
    const killed = await join({ contest: new PlayedContest(), remove: neverRemoves });
    for (const id of ["c-again", "c-half"]) {
      await killed.registry.register(id, { type: "t", ttlMs: 60_000 });
      expect(await codeOf(killed.registry.deregister(id, { purge: true }))).to.equal("broker-unavailable");
      expect(await tombstone(id)).to.include({ removing: true });
    }
    await killed.close();
    const again = await join({ contest: new PlayedContest() });
    await again.registry.register("c-again", { type: "t", ttlMs: 60_000 });
    const removed: string[] = [];
    await join({ remove: async ({ id, type }) => void removed.push(`${type}/${id}`) });
    await eventually(async () => expect(await tombstone("c-half")).not.to.have.property("removing"));
    expect(removed).to.deep.equal(["t/c-half"]);
  });

  it("finish a purge when they take the lead", async () => {
    const contest = new PlayedContest();
    const removed: string[] = [];
    const successor = await join({ contest, remove: async ({ id }) => void removed.push(id) });
    const killed = await join({ remove: neverRemoves });
    await killed.registry.register("c-left", { type: "t", ttlMs: 60_000 });
    expect(await codeOf(killed.registry.deregister("c-left", { purge: true }))).to.equal("broker-unavailable");
    await eventually(() => expect(successor.registry.get("c-left")?.state).to.equal(undefined));
    await killed.close();
    expect(removed).to.deep.equal([]);
    contest.choose();
    await eventually(async () => expect(await tombstone("c-left")).not.to.have.property("removing"));
    expect(removed).to.deep.equal(["c-left"]);
  });

  it("take the queues away of what another site removed while it did not hear this one", async () => {
    const home = await join();
    await home.registry.register("c-far", { type: "t", ttlMs: 60_000 });
    await home.close();
    const sites = { hears: (name: string) => name !== site, subscribe: () => () => undefined };
    const elsewhere: string[] = [];
    const other = await join({ site: `${site}-other`, sites, remove: async ({ id }) => void elsewhere.push(id) });
    await other.registry.deregister("c-far", { purge: true });
    expect(await tombstone("c-far")).to.include({ removing: true, site });
    const removed: string[] = [];
    await join({ remove: async ({ id }) => void removed.push(id) });
    await eventually(() => expect(removed).to.deep.equal(["c-far"]));
    await eventually(async () => expect(await tombstone("c-far")).not.to.have.property("removing"));
  });
});
