import { expect } from "chai";
import { federationPlan, peerUrlWithoutCredentials } from "../../coordinator/messaging/federation-plan.ts";
import type { Member, Members } from "../../coordinator/messaging/members.ts";
import { homeOf, readPassage, siteOfReplyKey, withoutPassage } from "../../coordinator/messaging/remote-route.ts";

const message = (headers: Record<string, unknown>, more: object = {}) =>
  ({ properties: { headers, deliveryMode: 2, messageId: "m", ...more } }) as unknown as Parameters<
    typeof readPassage
  >[0];

describe("a message from another site", () => {
  it("says which exchange and key it is for", () => {
    const read = readPassage(message({ "muster-exchange": "muster.unicast", "muster-key": "c1" }));
    expect(read).to.deep.equal({ exchange: "muster.unicast", key: "c1", hops: 0, isLast: false });
  });

  for (const [what, headers] of [
    ["no exchange", { "muster-key": "c1" }],
    ["an exchange that is a site's own affair", { "muster-exchange": "muster.renewals", "muster-key": "c1" }],
    ["no key", { "muster-exchange": "muster.unicast" }],
    ["an endless key", { "muster-exchange": "muster.unicast", "muster-key": "k".repeat(300) }],
  ] as const) {
    it(`is refused with ${what}`, () => {
      expect(readPassage(message(headers))).to.have.property("fault");
    });
  }

  it("is not sent on for ever", () => {
    const sent = (hops: unknown) =>
      readPassage(message({ "muster-exchange": "muster.any", "muster-key": "t", "muster-hops": hops }));
    expect(sent(2)).to.include({ isLast: false });
    expect(sent(3)).to.include({ isLast: true });
    expect(sent("many")).to.include({ isLast: true });
  });

  it("goes on without what was for the way, and with what is left of its time", () => {
    const way = { "muster-exchange": "muster.unicast", "muster-key": "c1", "muster-hops": 1, "x-received-from": [] };
    const kept = { "muster-kind": "command", "muster-deadline": 5_000 };
    const options = withoutPassage(message({ ...way, ...kept }, { expiration: "60000", type: "go" }), 2_000);
    expect(options).to.deep.equal({ messageId: "m", type: "go", persistent: true, headers: kept, expiration: "3000" });
  });
});

describe("the home of a message's target", () => {
  const members = [
    { id: "c1", type: "t", site: "west" },
    { id: "c2", type: "t", site: "east" },
  ] as Member[];
  const known: Members = { get: (id) => members.find((member) => member.id === id), all: () => members };
  const home = (exchange: string, key: string) => homeOf({ exchange, key, hops: 0, isLast: false }, known, "east");

  it("is this site, with the member whose queues are missing", () => {
    expect(home("muster.unicast", "c2")).to.deep.equal({ member: members[1] });
    expect(home("muster.any", "t")).to.deep.equal({ member: members[1] });
  });
  it("is the site that the registry names", () => {
    expect(home("muster.requests", "c1")).to.deep.equal({ site: "west" });
  });
  it("is nowhere for what the registry does not know", () => {
    expect(home("muster.unicast", "c3")).to.deep.equal({});
  });
  it("stands in a coordinator's reply key and not in a component's", () => {
    expect(siteOfReplyKey("commands:west")).to.equal("west");
    expect(siteOfReplyKey("coordinator:west:ab12")).to.equal("west");
    expect(siteOfReplyKey("c1")).to.equal(undefined);
  });
});

describe("the plan of the links with other brokers", () => {
  const west = { name: "west", amqpUrl: "amqp://ann:s3cret@rabbit/v" };

  it("has an upstream for each site, in one set, for the exchanges that sites share", () => {
    const { upstreams, set, policies } = federationPlan([west]);
    expect(upstreams["muster-west"]).to.include({ "max-hops": 1, "ack-mode": "on-confirm" });
    expect(set).to.deep.equal([{ upstream: "muster-west" }]);
    const shared = new RegExp(policies[0]?.pattern ?? "");
    for (const name of ["muster.all", "muster.events", "muster.remote", "muster.type.t"]) expect(name).to.match(shared);
    for (const name of ["muster.unicast", "muster.any", "muster.dead", "muster.reply"])
      expect(name).to.not.match(shared);
  });

  it("notices a link that swallows everything: the URI asks for heartbeats", () => {
    expect(federationPlan([west]).upstreams["muster-west"]?.uri).to.equal("amqp://ann:s3cret@rabbit/v?heartbeat=10");
  });

  it("is told without credentials", () => {
    expect(peerUrlWithoutCredentials(west.amqpUrl)).to.equal("amqp://rabbit/v");
  });
});
