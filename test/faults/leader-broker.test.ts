import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "amqplib";
import { expect } from "chai";
import { exchanges } from "../../config-db/names.ts";
import { type Broker, startBroker } from "../../scripts/broker.ts";
import { findFreePort } from "../../scripts/ports.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

describe("a leader whose broker freezes or is restarted", function () {
  this.timeout(180_000);
  let directory: string;
  let broker: Broker;
  let coordinator: RunningCoordinator;
  let renewing: NodeJS.Timeout | undefined;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-test-leader-broker-"));
    broker = await startBroker({ directory, port: await findFreePort() });
    coordinator = await startCoordinator({
      amqpUrl: broker.url,
      args: ["--amqp-management-url", broker.managementUrl],
    });
  });
  after(async () => {
    clearInterval(renewing);
    await coordinator?.close();
    await broker?.close();
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  const stateOf = async (id: string) => (await coordinator.call("GET", `/v1/components/${id}`)).body.state as string;
  const register = (id: string) =>
    coordinator.call("PUT", `/v1/components/${id}`, { type: "t", instance: "p1", ttlMs: 2_000 });

  it("expires nobody who renews by message while the broker is frozen, and the dead after it", async () => {
    await register("by-message");
    const connection = await connect(broker.url);
    connection.on("error", () => undefined);
    const channel = await connection.createChannel();
    const renewal = Buffer.from(JSON.stringify({ id: "by-message", incarnation: 1 }));
    renewing = setInterval(() => channel.publish(exchanges.renewals, "", renewal), 500);
    try {
      await register("dead-before");
      await eventually(async () => expect(await stateOf("dead-before")).to.equal("expired"), { timeoutMs: 20_000 });
      await register("dead-during");
      process.kill(broker.pid, "SIGSTOP");
      // Four times their TTL, and less than the missed heartbeats that would end the connections.
      await new Promise((resolve) => setTimeout(resolve, 8_000));
      expect(await stateOf("by-message")).to.equal("up");
      expect(await stateOf("dead-during"), "nobody is judged by a leader that does not hear").to.equal("up");
      process.kill(broker.pid, "SIGCONT");
      await eventually(async () => expect(await stateOf("dead-during")).to.equal("expired"), { timeoutMs: 30_000 });
      const { body } = await coordinator.call("GET", "/v1/components/by-message");
      expect(body).to.deep.include({ state: "up", incarnation: 1 });
    } finally {
      process.kill(broker.pid, "SIGCONT");
      clearInterval(renewing);
      await connection.close();
    }
  });

  it("goes on taking renewals, expires nobody who is alive, and judges again when the broker is back", async () => {
    await register("live");
    const refusals: number[] = [];
    renewing = setInterval(() => {
      coordinator
        .call("PUT", "/v1/components/live/lease")
        .then(({ status }) => status !== 200 && refusals.push(status))
        .catch(() => refusals.push(0));
    }, 500);
    await register("silent-before");
    await eventually(async () => expect(await stateOf("silent-before")).to.equal("expired"), { timeoutMs: 20_000 });

    const port = Number(new URL(broker.url).port);
    await broker.close();
    await register("silent-during");
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    expect(await stateOf("silent-during"), "nobody is judged by a leader that may not hear").to.equal("up");
    expect(await stateOf("live")).to.equal("up");

    broker = await startBroker({ directory, port });
    await eventually(async () => expect(await stateOf("silent-during")).to.equal("expired"), { timeoutMs: 60_000 });
    expect(await stateOf("live")).to.equal("up");
    expect(refusals).to.deep.equal([]);
  });
});
