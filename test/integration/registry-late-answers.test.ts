import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import type { SiteDocument } from "../../config-db/generated/types.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { eventually } from "../support/eventually.ts";
import { type Member, PlayedContest, startMember } from "../support/site-member.ts";
import { type StoreFront, startStoreFront } from "../support/store-front.ts";

/** The first coordinator hears late from the store: a slow link, or a process that was stopped between two answers. */
describe("a coordinator that the store answers late", () => {
  let embedded: Embedded;
  let front: StoreFront;
  let late: Member;
  let other: Member;
  let names = 0;
  let id: string;

  before(async () => {
    embedded = await startEmbedded();
    await install(new Store(embedded.url));
    front = await startStoreFront(embedded.url);
    late = await startMember({ storeUrl: front.url, contest: new PlayedContest() });
    other = await startMember({ storeUrl: embedded.url, contest: new PlayedContest() });
  });
  beforeEach(() => {
    names += 1;
    id = `late-${names}`;
  });
  after(async () => {
    await late?.close();
    await other?.close();
    await front?.close();
    await embedded?.close();
  });

  const registration = (instance: string) => ({ type: "t", instance, ttlMs: 600_000 });
  const known = ({ registry }: Member) => {
    const record = registry.get(id);
    return record === undefined ? "none" : `${record.state}/${record.incarnation}`;
  };
  const eventsAt = ({ registry }: Member) => {
    const events: string[] = [];
    registry.subscribe(({ kind, component }) => {
      if (component.id === id) events.push(`${kind}/${component.incarnation}`);
    });
    return events;
  };

  const cases: [string, () => Promise<unknown>, string, string[]][] = [
    ["deregistered", () => other.registry.deregister(id), "gone/1", ["up/1", "gone/1"]],
    ["removed", () => other.registry.deregister(id, { purge: true }), "none", ["up/1", "removed/1"]],
    ["registered by a newer process", () => other.registry.register(id, registration("new")), "up/2", ["up/1", "up/2"]],
  ];
  for (const [what, change, outcome, told] of cases) {
    it(`keeps what it heard of one that was ${what} before its own write was acknowledged`, async () => {
      const events = eventsAt(late);
      const held = front.hold(/POST \/muster-registry\/_bulk_docs/);
      const registered = late.registry.register(id, registration("old"));
      await eventually(() => expect([known(other), known(late)]).to.deep.equal(["up/1", "up/1"]));
      await change();
      await eventually(() => expect(known(late)).to.equal(outcome));
      expect(held.count).to.equal(1);
      held.release();
      expect((await registered).record.incarnation).to.equal(1);
      expect(known(late)).to.equal(outcome);
      expect(events).to.deep.equal(told);
      expect(late.registry.discover({ type: "t", state: "any" }, { limit: 100 }).etag).to.equal(
        other.registry.discover({ type: "t", state: "any" }, { limit: 100 }).etag,
      );
    });
  }

  it("keeps what it heard of one that was registered again after it was read as removed", async () => {
    await other.registry.register(id, registration("old"));
    await other.registry.deregister(id, { purge: true });
    await eventually(() => expect(late.registry.read.bind(late.registry, id)).to.throw());
    const held = front.hold(new RegExp(`GET /muster-registry/component:${id}`));
    const read = late.registry.renew(id).catch((error: { code: string }) => error.code);
    await eventually(() => expect(held.count).to.equal(1));
    await other.registry.register(id, registration("new"));
    await eventually(() => expect(known(late)).to.equal("up/2"));
    held.release();
    await read;
    expect(known(late)).to.equal("up/2");
  });

  it("does not go back, when the feed is late, from what it read to what was before", async () => {
    await other.registry.register(id, registration("p1"));
    await eventually(() => expect(known(late)).to.equal("up/1"));
    const held = front.hold(/GET \/muster-registry\/_changes/);
    await other.registry.deregister(id);
    await other.registry.register(id, registration("p2"));
    const events = eventsAt(late);
    await late.registry.renew(id, { incarnation: 2 }).catch(() => undefined);
    expect(known(late)).to.equal("up/2");
    held.release();
    const after = `${id}-after`;
    await other.registry.register(after, registration("p1"));
    await eventually(() => expect(late.registry.get(after)?.state).to.equal("up"));
    expect(events).to.deep.equal(["up/2"]);
  });

  it("does not take the lead by a claim that another has overtaken before it was acknowledged", async () => {
    const contest = new PlayedContest();
    const site = "overtaken";
    const first = await startMember({ storeUrl: front.url, site, contest, beatEveryMs: 60_000 });
    const roles: string[] = [];
    first.leadership.subscribe(({ role }) => roles.push(role));
    const held = front.hold(/PUT \/muster-registry\/site:overtaken/);
    contest.choose();
    await eventually(() => expect(first.leadership.epoch).to.equal(1));
    const successor = await startMember({ storeUrl: embedded.url, site, beatEveryMs: 60_000 });
    await eventually(() => expect(first.leadership.epoch).to.equal(2));
    held.release();
    // What is asked of its record next is answered after the claim.
    await first.leadership.decide([]).catch(() => undefined);
    expect(roles).to.deep.equal([]);
    expect(first.leadership.epoch).to.equal(2);
    await first.close();
    await successor.close();
  });

  it("leads on when it had looked who leads, and hears of that after its claim", async () => {
    const contest = new PlayedContest();
    contest.isConnected = false;
    const site = "looked";
    const first = await startMember({ storeUrl: embedded.url, site, beatEveryMs: 60_000 });
    const looking = front.holdNext(/GET \/muster-registry\/site:looked/);
    const second = await startMember({ storeUrl: front.url, site, contest, beatEveryMs: 200 });
    await eventually(() => expect(looking.count).to.equal(1));
    const roles: string[] = [];
    second.leadership.subscribe(({ role }) => roles.push(role));
    contest.choose();
    // As far as the claim comes without the answer.
    await Promise.race([delay(1_000), eventually(() => expect(roles).to.include("leading"))]);
    looking.release();
    const beat = () => second.store.database<SiteDocument>(databases.registry).get("site:looked");
    await eventually(async () => expect((await beat())?.beat).to.be.above(4));
    expect(roles).to.deep.equal(["leading"]);
    await second.close();
    await first.close();
  });

  it("goes on counting incarnations when it hears of a removal only by its own write", async () => {
    await other.registry.register(id, registration("p1"));
    await other.registry.register(id, registration("p2"));
    await eventually(() => expect(known(late)).to.equal("up/2"));
    const held = front.hold(/GET \/muster-registry\/_changes/);
    await other.registry.deregister(id, { purge: true });
    const { record } = await late.registry.register(id, registration("p3"));
    held.release();
    expect(record.incarnation).to.equal(3);
  });

  it("answers nobody that it is registered who has been deregistered at another", async () => {
    const contest = new PlayedContest();
    const site = "repeated";
    const leader = await startMember({ storeUrl: front.url, site, contest });
    const follower = await startMember({ storeUrl: embedded.url, site, contest: new PlayedContest() });
    contest.choose();
    await eventually(() => expect(leader.leadership.leading).to.equal(true));
    await leader.registry.register(id, registration("p1"));
    await eventually(() => expect(known(follower)).to.equal("up/1"));
    const held = front.hold(/GET \/muster-registry\/_changes/);
    await follower.registry.deregister(id);
    expect((await leader.registry.register(id, registration("p1"))).record).to.include({ state: "up", incarnation: 2 });
    await eventually(() => expect(known(follower)).to.equal("up/2"));
    held.release();
    await leader.close();
    await follower.close();
  });

  for (const [what, arrange, incarnation] of [
    ["the tombstone keeps", () => () => true, 3],
    // The tombstone is the fourth revision: it cannot have been more than so many incarnations.
    [
      "there can have been, where the store has compacted the tombstone away",
      () => front.answerOnce(/rev=4-/, 404, {}),
      5,
    ],
  ] as const) {
    it(`goes on from the incarnations that ${what} when it has never heard of the id`, async () => {
      const held = front.hold(/GET \/muster-registry\/_changes/);
      await other.registry.register(id, registration("p1"));
      await other.registry.register(id, registration("p2"));
      await other.registry.deregister(id, { purge: true });
      const isAnswered = arrange();
      const { record, created } = await late.registry.register(id, registration("p3"));
      expect(isAnswered()).to.equal(true);
      expect([record.incarnation, created, known(late)]).to.deep.equal([incarnation, true, `up/${incarnation}`]);
      await eventually(() => expect(known(other)).to.equal(`up/${incarnation}`));
      held.release();
      const again = await late.registry.register(id, registration("p3"));
      expect([again.record.incarnation, again.created]).to.deep.equal([incarnation, false]);
    });
  }
});
