import { expect } from "chai";
import { pino } from "pino";
import { withoutCredentials } from "../../config-db/replication/replication.ts";
import { type Change, Store } from "../../config-db/store.ts";
import { judgeIdentity, type SiteIdentity } from "../../coordinator/sites/identity.ts";
import { mergePeers, type PeerDocument } from "../../coordinator/sites/peers.ts";
import { Sites } from "../../coordinator/sites/sites.ts";

const own: SiteIdentity = { _id: "_local/muster-site", site: "east", storeId: "e", schemaVersion: 1, reads: [] };
const url = "http://couch.example";

describe("who answers at a peer's URL", () => {
  const judged = (identity: Partial<SiteIdentity> | undefined) => judgeIdentity(identity, "west", own, url);
  const west = { ...own, site: "west", storeId: "w" };

  it("is taken when it is the site that it should be", () => {
    expect(judged(west)).to.deep.equal({ found: "site", identity: west });
  });
  for (const [what, identity, reason] of [
    ["no site", undefined, /without a Muster site/],
    ["a site without a name", { ...west, site: 7 as unknown as string }, /names no site/],
    ["ourselves", { ...west, storeId: "e" }, /this site's own store/],
    ["another site of our name", { ...own, storeId: "other" }, /two sites are called east/],
    ["another site than it should be", { ...west, site: "south" }, /is the site south, not west/],
    ["a site with newer records", { ...west, schemaVersion: 2 }, /upgrade Muster here first/],
  ] as const) {
    it(`is refused by name when it is ${what}`, () => {
      const probe = judged(identity);
      expect(probe.found).to.equal("error");
      expect(probe).to.have.property("reason").that.matches(reason);
    });
  }
});

describe("peers", () => {
  const setting = { name: "west", couchdbUrl: "http://setting" };
  const said = (document: Partial<PeerDocument>): PeerDocument => ({
    _id: "peer:west",
    kind: "peer",
    schemaVersion: 1,
    name: "west",
    ...document,
  });

  it("are those of the settings and those that operators named, who count over a setting", () => {
    const named = said({ couchdbUrl: "http://operator", amqpUrl: "amqp://operator" });
    expect(mergePeers([setting], [])).to.deep.equal([setting]);
    expect(mergePeers([setting], [named])).to.deep.equal([
      { name: "west", couchdbUrl: "http://operator", amqpUrl: "amqp://operator" },
    ]);
  });

  it("are without one that an operator took out, though a setting names it", () => {
    expect(mergePeers([setting], [said({ removed: true })])).to.deep.equal([]);
  });
});

describe("a message about a URL", () => {
  it("is told without the credentials in it", () => {
    expect(withoutCredentials("GET http://ann:s3cret@couch:5984/x failed; amqps://b:c@h")).to.equal(
      "GET http://couch:5984/x failed; amqps://h",
    );
  });
});

describe("two sites of one name that are no peers of ours", () => {
  const seen = (coordinatorUrl: string, epoch: number): Change[] => {
    const doc = { _id: "site:west", kind: "site", site: "west", beat: 1, beatEveryMs: 5_000, coordinatorUrl, epoch };
    return [{ id: "site:west", seq: 1, deleted: false, doc }];
  };
  const observer = () =>
    new Sites({
      store: new Store(url),
      storeUrl: url,
      site: "east",
      coordinatorUrl: url,
      couchdbUrl: url,
      peers: [],
      leads: () => false,
      watch: { hears: () => true, ageMs: () => 0 },
      logger: pino({ level: "silent" }),
      clock: () => 0,
    });

  it("are named, with the coordinators of both", () => {
    const sites = observer();
    for (const changes of [seen("http://one", 3), seen("http://two", 1)]) sites.apply(changes);
    expect(sites.get("west")).to.include({ state: "error" });
    expect(sites.get("west")?.lastError).to.match(/two sites are called west.*http:\/\/one and http:\/\/two/);
  });

  it("are not suspected when another coordinator of a site takes the lead", () => {
    const sites = observer();
    for (const changes of [seen("http://one", 3), seen("http://two", 4)]) sites.apply(changes);
    expect(sites.get("west")).to.include({ state: "up" });
  });
});
