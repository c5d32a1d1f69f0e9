import { expect } from "chai";
import { Bridge } from "../../clients/typescript/src/bridge.ts";
import { silent } from "../../clients/typescript/src/logger.ts";
import { type MemberState, Membership } from "../../clients/typescript/src/membership.ts";
import { eventually } from "../support/eventually.ts";
import { FakeCoordinator, problem } from "../support/fake-coordinator.ts";

describe("the client's membership that looks for the broker again", () => {
  let coordinator: FakeCoordinator;
  let membership: Membership;
  let states: MemberState[];

  beforeEach(async () => {
    coordinator = new FakeCoordinator();
    await coordinator.start();
    states = [];
    membership = new Membership({
      bridge: new Bridge({ urls: [coordinator.url] }),
      id: "worker",
      registration: { type: "worker", ttlMs: 30_000 },
      health: undefined,
      renewByMessage: () => false,
      onRegistered: () => undefined,
      onState: (state) => states.push(state),
      logger: silent,
    });
    await membership.register();
    membership.start();
  });
  afterEach(async () => {
    await membership.close(false);
    await coordinator.stop();
  });

  const registrations = () => coordinator.seen("PUT", "/worker").length;
  const renewals = () => coordinator.seen("PUT", "/lease").length;

  it("renews and then registers, once", async () => {
    membership.registerAgain();
    await eventually(() => expect(registrations()).to.equal(2));
    const before = renewals();
    expect(before).to.be.above(0);
    await eventually(() => {
      membership.check();
      expect(renewals()).to.be.above(before);
    });
    expect(registrations()).to.equal(2);
  });

  it("stays online where only the registration fails, and asks again with a later renewal", async () => {
    let fails = true;
    coordinator.override = async ({ method, path }) =>
      fails && method === "PUT" && path.endsWith("/worker") ? problem(503, "store-unavailable") : undefined;
    membership.registerAgain();
    await eventually(() => expect(registrations()).to.equal(2));
    await eventually(() => expect(renewals()).to.equal(1));
    fails = false;
    membership.check();
    await eventually(() => expect(registrations()).to.equal(3));
    expect(states).to.deep.equal(["online"]);
  });

  it("leaves the id to a newer process that has taken it meanwhile", async () => {
    coordinator.override = ({ path }) => (path.endsWith("/lease") ? problem(409, "superseded") : undefined);
    membership.registerAgain();
    await eventually(() => expect(states).to.deep.equal(["online", "superseded"]));
    membership.registerAgain();
    await membership.close(true);
    expect(registrations()).to.equal(1);
  });
});
