import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { connect } from "amqplib";
import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { ensureRabbitmq } from "../../scripts/broker/installed.ts";
import { openRecord, settingsOf } from "../../scripts/broker/record.ts";
import { nodeEnvironment } from "../../scripts/broker/settings.ts";
import { type Broker, startBroker } from "../../scripts/broker.ts";
import { runCommand } from "../../scripts/command.ts";
import { findFreePort } from "../../scripts/ports.ts";
import { unique } from "../integration/messaging-fixture.ts";
import { brokerStartTimeoutMs } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

/** The coordinators ask each other with it. */
const token = "one-for-all-of-the-site";

describe("a broker that is low on disk", function () {
  this.timeout(brokerStartTimeoutMs + 60_000);
  let directory: string;
  let broker: Broker;
  let store: Embedded;
  const coordinators: RunningCoordinator[] = [];
  let port: number;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-alarm-"));
    port = await findFreePort();
    broker = await startBroker({ directory, port });
    store = await startEmbedded();
    const args = ["--amqp-management-url", broker.managementUrl, "--operator-token", token];
    for (let n = 0; n < 2; n += 1)
      coordinators.push(await startCoordinator({ amqpUrl: broker.url, couchdbUrl: store.url, args }));
  });
  after(async () => {
    await Promise.all(coordinators.map((coordinator) => coordinator.close()));
    await store?.close();
    await broker?.close();
    await rm(directory, { recursive: true, force: true });
  });

  const limitDisk = async (limit: string) => {
    const { server } = await ensureRabbitmq(() => undefined);
    const settings = settingsOf(await openRecord(directory, ""), directory, port);
    const env = nodeEnvironment(settings, process.env);
    await runCommand(join(dirname(server), "rabbitmqctl"), ["set_disk_free_limit", limit], { env });
  };
  const ask = (at: RunningCoordinator, method: string, path: string, body?: unknown) =>
    at.call(method, path, body, { authorization: `Bearer ${token}` });
  const command = (at: RunningCoordinator, id: string) =>
    ask(at, "POST", "/v1/commands", { to: { component: id }, name: "work", track: false });
  const poll = async (at: RunningCoordinator, id: string) => {
    const answer = await ask(at, "GET", `/v1/components/${id}/inbox?waitMs=500`);
    expect(answer.status, JSON.stringify(answer.body)).to.equal(200);
    return answer.body.messages as { delivery: string }[];
  };

  it("costs nobody a lease that is renewed by message", async () => {
    const [one, other] = coordinators as [RunningCoordinator, RunningCoordinator];
    const ids = Array.from({ length: 5 }, () => unique("c"));
    for (const id of ids) await ask(one, "PUT", `/v1/components/${id}`, { type: "t", ttlMs: 1_500 });
    const connections = await Promise.all(ids.map(() => connect(broker.url)));
    const channels = await Promise.all(connections.map((connection) => connection.createChannel()));
    const renew = () => {
      for (const [n, channel] of channels.entries())
        channel.publish("muster.renewals", "", Buffer.from(JSON.stringify({ id: ids[n], incarnation: 1 })));
    };
    const renewing = setInterval(renew, 300);
    const states = async () => {
      const { body } = await ask(one, "GET", "/v1/components?type=t&state=any");
      const all = body.components as { id: string; state: string; incarnation: number }[];
      return all.filter(({ id }) => ids.includes(id)).map(({ state, incarnation }) => ({ state, incarnation }));
    };
    const up = ids.map(() => ({ state: "up", incarnation: 1 }));
    try {
      const held = /not judging: renewals by message do not come through/;
      await limitDisk("1000000GB");
      await Promise.race([one.process.line(held), other.process.line(held)]);
      expect(await states()).to.deep.equal(up);
      await limitDisk("50MB");
      for (const at of [one, other])
        await eventually(async () => expect((await ask(at, "GET", "/readyz")).status).to.equal(200));
      expect(await states()).to.deep.equal(up);
    } finally {
      clearInterval(renewing);
      await limitDisk("50MB");
      for (const connection of connections) await connection.close();
    }
  });

  it("still gives out messages and leases, and whatever needs it to take some says what it lacks", async () => {
    const [one, other] = coordinators as [RunningCoordinator, RunningCoordinator];
    const id = unique("c");
    expect((await ask(one, "PUT", `/v1/components/${id}`, { type: "t", ttlMs: 3_000 })).status).to.equal(201);
    await eventually(async () => expect((await command(one, id)).status).to.equal(202));
    const renewals: number[] = [];
    const renewing = setInterval(async () => {
      renewals.push((await ask(other, "PUT", `/v1/components/${id}/lease`, {})).status);
    }, 500);
    try {
      await limitDisk("1000000GB");
      // The broker says so at the next publish: the coordinators' own come at least every 10 s.
      for (const at of [one, other])
        await eventually(
          async () => {
            const ready = await ask(at, "GET", "/readyz");
            expect([ready.status, ready.body.broker]).to.deep.equal([
              503,
              "the broker takes no messages: it is low on disk",
            ]);
          },
          { timeoutMs: 30_000 },
        );
      const refused = await command(one, id);
      expect([refused.status, refused.body.code]).to.deep.equal([503, "broker-unavailable"]);
      expect(refused.body.detail).to.match(/low on disk/);
      await one.process.line(/takes no messages: it is low on disk/);

      const messages = await poll(one, id);
      expect(messages).to.have.length.above(0);
      for (const { delivery } of messages)
        expect((await ask(one, "POST", `/v1/components/${id}/inbox/${delivery}/ack`)).status).to.equal(204);
      expect(await poll(other, id)).to.deep.equal([]);
      const late = unique("late");
      expect((await ask(other, "PUT", `/v1/components/${late}`, { type: "t" })).status).to.equal(201);
      expect(await poll(other, late)).to.deep.equal([]);
      expect(new Set(renewals)).to.deep.equal(new Set([200]));
    } finally {
      clearInterval(renewing);
    }
    await limitDisk("50MB");
    for (const at of [one, other])
      await eventually(async () => expect((await ask(at, "GET", "/readyz")).status).to.equal(200));
    const last = unique("c");
    expect((await ask(one, "PUT", `/v1/components/${last}`, { type: "t" })).status).to.equal(201);
    await eventually(async () => expect((await command(other, last)).status).to.equal(202));
    expect(await poll(other, last)).to.have.length(1);
  });
});
