import { randomBytes } from "node:crypto";
import { expect } from "chai";
import { brokerStartTimeoutMs, freshVhost, type Vhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

/** A site with a broker of its own and a way to it that can be cut. */
interface Site {
  name: string;
  coordinator: RunningCoordinator;
  vhost: Vhost;
  /** Between the others' brokers and this one's. */
  link: FaultProxy;
  /** The broker's address through `link`. */
  linkedUrl: string;
}

interface Message {
  delivery: string;
  id: string;
  kind: string;
  name: string;
  body: unknown;
}

const patient = { timeoutMs: 20_000, everyMs: 100 };

describe("messages between sites", function () {
  this.timeout(90_000);
  const sites: Site[] = [];
  let east: Site;
  let west: Site;

  before(async function () {
    this.timeout(brokerStartTimeoutMs + 60_000);
    [east, west] = await Promise.all([startSite("east"), startSite("west")]);
    for (const [one, other] of [
      [east, west],
      [west, east],
    ] as const) {
      const { body } = await other.coordinator.call("GET", "/v1/sites");
      const { couchdbUrl } = body.sites.find((row: { self: boolean }) => row.self);
      const peer = { name: other.name, couchdbUrl, amqpUrl: other.linkedUrl };
      expect((await one.coordinator.call("POST", "/v1/sites", peer)).status).to.equal(201);
    }
    await eventually(async () => {
      for (const [one, other] of [
        [east, west],
        [west, east],
      ] as const) {
        const { body } = await one.coordinator.call("GET", "/v1/sites");
        expect(body.sites.map(({ state }: { state: string }) => state)).to.deep.equal(["up", "up"]);
        // A link stands when it has bound what is bound here, at the other side.
        const bound = (await other.vhost.api("GET", "/exchanges/{vhost}/muster.remote/bindings/source")) as object[];
        expect(bound).to.have.length(2);
      }
    }, patient);
  });
  after(async function () {
    this.timeout(60_000);
    for (const { coordinator, link, vhost } of sites) {
      await coordinator.close();
      await link.close();
      await vhost.close();
    }
  });

  async function startSite(name: string): Promise<Site> {
    const vhost = await freshVhost();
    const url = new URL(vhost.url);
    const link = await startProxy({ host: url.hostname, port: Number(url.port) });
    const linked = new URL(vhost.url);
    linked.hostname = "127.0.0.1";
    linked.port = String(link.port);
    const args = ["--amqp-management-url", vhost.managementUrl];
    const coordinator = await startCoordinator({ site: name, amqpUrl: vhost.url, args });
    const site = { name, coordinator, vhost, link, linkedUrl: linked.href };
    sites.push(site);
    return site;
  }

  /** A component that speaks HTTP, known at both sites. */
  async function register(
    at: Site,
    type = `t${randomBytes(4).toString("hex")}`,
  ): Promise<{ id: string; type: string }> {
    const id = `c-${randomBytes(4).toString("hex")}`;
    expect((await at.coordinator.call("PUT", `/v1/components/${id}`, { type })).status).to.equal(201);
    for (const { coordinator } of [east, west]) {
      await eventually(
        async () => expect((await coordinator.call("GET", `/v1/components/${id}`)).status).to.equal(200),
        patient,
      );
    }
    return { id, type };
  }

  /** Without signals: that its configuration changed a component hears some time after it has registered. */
  const received = async (at: Site, id: string): Promise<Message[]> => {
    const { body } = await at.coordinator.call("GET", `/v1/components/${id}/inbox?waitMs=1000`);
    return (body.messages as Message[]).filter(({ kind }) => kind !== "signal");
  };

  const firstReceived = (at: Site, id: string): Promise<Message> =>
    eventually(async () => {
      const [first] = await received(at, id);
      if (first === undefined) throw new Error(`nothing came to ${id} at ${at.name}`);
      return first;
    }, patient);

  const ack = (at: Site, id: string, { delivery }: Message) =>
    at.coordinator.call("POST", `/v1/components/${id}/inbox/${delivery}/ack`);

  const stateAt = async (at: Site, command: string, target: string) =>
    (await at.coordinator.call("GET", `/v1/commands/${command}`)).body.targets?.[target]?.state;

  it("bring a command to a component at the other site, and tell its sender that it was done", async () => {
    const { id } = await register(west);
    const sent = await east.coordinator.call("POST", "/v1/commands", {
      to: { component: id },
      name: "go",
      body: { n: 1 },
    });
    expect(sent.status).to.equal(202);
    const message = await firstReceived(west, id);
    expect(message)
      .to.include({ id: sent.body.id, name: "go", kind: "command" })
      .and.deep.include({ body: { n: 1 } });
    await ack(west, id, message);
    await eventually(async () => expect(await stateAt(east, sent.body.id, id)).to.equal("done"), patient);
  });

  it("bring a request there and its reply back", async () => {
    const { id } = await register(west);
    const asked = east.coordinator.call("POST", "/v1/requests", {
      to: { component: id },
      name: "ask",
      timeoutMs: 20_000,
    });
    const message = await firstReceived(west, id);
    await west.coordinator.call("POST", `/v1/components/${id}/inbox/${message.delivery}/reply`, {
      body: { answer: 42 },
    });
    const { status, body } = await asked;
    expect(status).to.equal(200);
    expect(body).to.deep.equal({ from: id, body: { answer: 42 } });
  });

  it("bring a request to any one of a type that only the other site has", async () => {
    const { id, type } = await register(west);
    const asked = east.coordinator.call("POST", "/v1/requests", { to: { any: type }, name: "ask", timeoutMs: 20_000 });
    const message = await firstReceived(west, id);
    await west.coordinator.call("POST", `/v1/components/${id}/inbox/${message.delivery}/reply`, { body: "me" });
    expect((await asked).body).to.deep.equal({ from: id, body: "me" });
  });

  it("bring a broadcast to all of a type at both sites, and all their replies to who asked", async () => {
    const there = await register(west);
    const here = await register(east, there.type);
    await eventually(async () => {
      const path = `/exchanges/{vhost}/muster.type.${there.type}/bindings/source`;
      expect(await east.vhost.api("GET", path)).to.have.length(2);
    }, patient);
    const asked = east.coordinator.call("POST", "/v1/requests", {
      to: { type: there.type },
      name: "roll",
      timeoutMs: 20_000,
    });
    for (const [at, { id }] of [
      [east, here],
      [west, there],
    ] as const) {
      const { delivery } = await firstReceived(at, id);
      await at.coordinator.call("POST", `/v1/components/${id}/inbox/${delivery}/reply`, { body: at.name });
    }
    const { body } = await asked;
    expect(body.missing).to.deep.equal([]);
    expect(body.replies).to.have.deep.members([
      { from: here.id, body: "east" },
      { from: there.id, body: "west" },
    ]);
  });

  it("bring a command to everyone once", async () => {
    const { id } = await register(west);
    await received(west, id);
    const sent = await east.coordinator.call("POST", "/v1/commands", { to: { all: true }, name: "all" });
    const message = await firstReceived(west, id);
    expect(message.id).to.equal(sent.body.id);
    await ack(west, id, message);
    await eventually(async () => expect(await stateAt(east, sent.body.id, id)).to.equal("done"), patient);
    expect(await received(west, id)).to.deep.equal([]);
  });

  it("wait while the link is cut and arrive when it is back", async () => {
    const { id } = await register(west);
    east.link.cut();
    const sent: string[] = [];
    for (let n = 0; n < 20; n++) {
      const { status, body } = await east.coordinator.call("POST", "/v1/commands", {
        to: { component: id },
        name: "go",
        body: n,
      });
      expect(status).to.equal(202);
      sent.push(body.id);
    }
    expect(await received(west, id)).to.deep.equal([]);
    east.link.heal();
    const got: Message[] = [];
    await eventually(async () => {
      for (const message of await received(west, id)) {
        got.push(message);
        await ack(west, id, message);
      }
      expect(new Set(got.map((message) => message.id)).size).to.equal(sent.length);
    }, patient);
    expect(got.map(({ body }) => body)).to.deep.equal([...sent.keys()]);
    await eventually(async () => expect(await stateAt(east, sent.at(-1) as string, id)).to.equal("done"), patient);
  });

  it("tell who commands a component that its site removed meanwhile", async () => {
    const { id } = await register(west);
    east.link.cut();
    const commanded = await east.coordinator.call("POST", "/v1/commands", { to: { component: id }, name: "go" });
    const asked = east.coordinator.call("POST", "/v1/requests", {
      to: { component: id },
      name: "ask",
      timeoutMs: 30_000,
    });
    expect((await west.coordinator.call("DELETE", `/v1/components/${id}?purge=true`)).status).to.equal(204);
    east.link.heal();
    const { status, body } = await asked;
    expect([status, body.code]).to.deep.equal([404, "no-such-target"]);
    await eventually(async () => expect(await stateAt(east, commanded.body.id, id)).to.equal("failed"), patient);
    const record = await east.coordinator.call("GET", `/v1/commands/${commanded.body.id}`);
    expect(record.body.targets[id].reason).to.match(/at no site any more/);
  });

  it("are refused at once for a component that no site has", async () => {
    const { status, body } = await east.coordinator.call("POST", "/v1/commands", {
      to: { component: "nobody" },
      name: "go",
    });
    expect([status, body.code]).to.deep.equal([404, "no-such-target"]);
  });
});
