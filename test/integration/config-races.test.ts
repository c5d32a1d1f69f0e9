import { randomBytes } from "node:crypto";
import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";
import { type StoreFront, startStoreFront } from "../support/store-front.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;
const done = async (at: ConfigSite, method: string, path: string, body?: object) => {
  const { status, body: answer } = await at.call(method, `/v1/config/${path}`, body);
  expect(status, answer?.detail).to.be.oneOf([200, 201, 204]);
};

describe("a coordinator to which the store's answers come late", () => {
  let embedded: Embedded;
  let front: StoreFront;
  let other: ConfigSite;
  let late: ConfigSite;
  let hears: true | "late" = true;

  before(async () => {
    embedded = await startSiteStore();
    front = await startStoreFront(embedded.url);
    other = await startConfigSite({ storeUrl: embedded.url });
    late = await startConfigSite({ storeUrl: front.url, leads: () => false, hears: () => hears });
  });
  beforeEach(() => {
    hears = true;
  });
  after(async () => {
    await late?.close();
    await front?.close();
    await other?.close();
    await embedded?.close();
  });

  const versionAt = ({ configuration }: ConfigSite, id: string) =>
    configuration.records.layer(`component:${id}`)?.version;
  /** Resolves when the changes feed has given it what the store has. */
  const hearAll = () => late.call("POST", "/v1/config/validate", { layer: "platform", settings: {} });
  /** A layer of version 1 that both have, and what is told to who watches its settings at the late one. */
  const start = async () => {
    const id = fresh("c");
    const layer = `layers/component:${id}`;
    await done(other, "PUT", layer, { settings: { n: 1 } });
    await eventually(() => expect(versionAt(late, id)).to.equal(1));
    const told: unknown[] = [];
    late.configuration.subscribe(id, () => told.push(late.configuration.effective(id).settings.n));
    return { id, layer, told };
  };

  it("does not go back from what another wrote to what it wrote itself before", async () => {
    const { id, layer, told } = await start();
    const held = front.holdNext(new RegExp(`^PUT .*:${id}`));
    const written = done(late, "PUT", layer, { settings: { n: 2 } });
    await eventually(() => expect(held.count).to.equal(1));
    await eventually(() => expect(versionAt(other, id)).to.equal(2));
    await done(other, "PUT", layer, { settings: { n: 3 } });
    await eventually(() => expect(versionAt(late, id)).to.equal(3));
    held.release();
    await written;
    await hearAll();
    expect(versionAt(late, id)).to.equal(3);
    expect(told.at(-1)).to.equal(3);
    expect(told).to.deep.equal(told.toSorted());
  });

  it("does not go back to what it read before another wrote", async () => {
    const { id, layer, told } = await start();
    hears = "late";
    await done(other, "PUT", layer, { settings: { n: 2 } });
    await done(late, "PUT", layer, { settings: { n: 3 } });
    const held = front.holdNext(new RegExp(`^GET .*:${id}$`));
    // The feed gives version 2, older than what was written here.
    await hearAll();
    hears = true;
    await eventually(() => expect(versionAt(other, id)).to.equal(3));
    await done(other, "PUT", layer, { settings: { n: 4 } });
    await eventually(() => expect(versionAt(late, id)).to.equal(4));
    held.release();
    await hearAll();
    await late.configuration.close();
    expect(versionAt(late, id)).to.equal(4);
    expect(told).to.deep.equal([2, 3, 4]);
  });
});

describe("of two writes that contradict each other, where one can be held and the other cannot,", () => {
  let embedded: Embedded;
  let sites: ConfigSite[] = [];
  let leader: ConfigSite;
  let one: ConfigSite;
  let other: ConfigSite;
  const secretKey = randomBytes(32);
  /** Who is told of no change of configuration until it asks. */
  let late: ConfigSite | undefined;

  const startSite = async (leads: boolean) => {
    const site: ConfigSite = await startConfigSite({
      ...{ storeUrl: embedded.url, secretKey, leads: () => leads },
      hears: () => (late !== undefined && late === site ? "late" : true),
    });
    return site;
  };
  before(async () => {
    embedded = await startSiteStore();
    leader = await startSite(true);
    one = await startSite(false);
    other = await startSite(false);
    sites = [leader, one, other];
  });
  after(async () => {
    for (const site of sites) await site.close();
    await embedded?.close();
  });

  const integers = { type: "object", properties: { n: { type: "integer" } } };
  const long = { type: "object", properties: { k: { type: "string", minLength: 5 }, d: { default: 7 } } };
  /** What was there, the write that may be held, the one that cannot be, and what is in force when the first is held. */
  const races: Record<
    string,
    (id: string) => {
      prepare: (at: ConfigSite) => Promise<void>;
      held: (at: ConfigSite) => Promise<void>;
      unheld: (at: ConfigSite) => Promise<void>;
      document: string;
      settings: object;
    }
  > = {
    "a layer and a registration": (id) => ({
      prepare: async (at) => {
        await done(at, "PUT", `schemas/${id}`, integers);
        await done(at, "PUT", `layers/type:${id}`, { settings: { n: 1 } });
      },
      held: (at) => done(at, "PUT", `layers/type:${id}`, { settings: { n: "bad" } }),
      unheld: async (at) => {
        await at.register(id, { type: id });
        for (const { member } of sites) await eventually(() => expect(member.registry.get(id)).to.not.equal(undefined));
      },
      document: `layer:type:${id}`,
      settings: { n: 1 },
    }),
    "a layer and the deletion of a secret": (id) => ({
      prepare: async (at) => {
        await done(at, "PUT", `secrets/s-${id}`, { value: "v" });
        await done(at, "PUT", `layers/component:${id}`, { settings: { n: 1 } });
      },
      held: (at) => done(at, "PUT", `layers/component:${id}`, { settings: { n: 2, k: { $secret: `s-${id}` } } }),
      unheld: (at) => done(at, "DELETE", `secrets/s-${id}`),
      document: `layer:component:${id}`,
      settings: { n: 1 },
    }),
    "a schema and a secret's value": (id) => ({
      prepare: async (at) => {
        await at.register(id, { type: id });
        await done(at, "PUT", `secrets/s-${id}`, { value: "long-enough" });
        await done(at, "PUT", `layers/component:${id}`, { settings: { k: { $secret: `s-${id}` } } });
        for (const { member } of sites) await eventually(() => expect(member.registry.get(id)).to.not.equal(undefined));
      },
      held: (at) => done(at, "PUT", `schemas/${id}`, long),
      unheld: (at) => done(at, "PUT", `secrets/s-${id}`, { value: "x" }),
      document: `schema:${id}`,
      settings: { k: "x" },
    }),
  };
  const orders: [string, () => [ConfigSite, ConfigSite]][] = [
    ["the leader saw the other before it", () => [one, leader]],
    ["the leader saw it before the other", () => [leader, one]],
  ];

  for (const [what, race] of Object.entries(races)) {
    for (const [order, writers] of orders) {
      it(`the first is held by all, over a restart too: ${what}, where ${order}`, async () => {
        const id = fresh("r");
        const { prepare, held, unheld, document, settings } = race(id);
        await prepare(leader);
        const state = (at: ConfigSite) => ({
          settings: JSON.parse(at.configuration.effective(id).body.toString()),
          etag: at.configuration.effective(id).etag,
          faults: at.configuration.faults().filter((fault) => JSON.stringify(fault).includes(id)),
        });
        await eventually(() => {
          for (const at of sites) expect(state(at)).to.deep.equal(state(leader));
          for (const at of [one, other]) {
            expect(at.configuration.records.secrets.size).to.equal(leader.configuration.records.secrets.size);
            expect(at.configuration.records.schemas.size).to.equal(leader.configuration.records.schemas.size);
          }
        });
        const [first, second] = writers();
        late = second;
        await held(first);
        await unheld(second);
        late = undefined;
        await second.call("POST", "/v1/config/validate", { layer: "platform", settings: {} });
        const expectHeld = (at: ConfigSite) => {
          expect(state(at).settings).to.deep.equal(settings);
          expect(state(at).faults).to.have.length(1);
          expect(state(at).faults[0]).to.deep.include({ kind: "held", document });
          expect(state(at)).to.deep.equal(state(leader));
        };
        await eventually(() => sites.forEach(expectHeld));
        const again = await startSite(false);
        try {
          expectHeld(again);
        } finally {
          await again.close();
        }
      });
    }
  }
});
