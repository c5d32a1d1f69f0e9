import { once } from "node:events";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "amqplib";
import { expect } from "chai";
import { basicAuthorization } from "../../config-db/basic-auth.ts";
import { answersAmqp } from "../../scripts/broker/handshake.ts";
import { type Broker, startBroker } from "../../scripts/broker.ts";
import { findFreePort, isPortFree } from "../../scripts/ports.ts";
import { identifyProcess } from "../../scripts/process-identity.ts";
import { SetupError } from "../../scripts/setup-error.ts";
import { brokerStartTimeoutMs } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";

describe("a private broker", function () {
  this.timeout(2 * brokerStartTimeoutMs);
  this.slow(30_000);

  let directory: string;
  let port: number;
  let broker: Broker;
  const nodeRecord = async () => JSON.parse(await readFile(join(directory, "broker.json"), "utf8"));

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-broker-"));
    port = await findFreePort();
    broker = await startBroker({ directory, port });
  });

  after(async () => {
    await broker?.close();
    await rm(directory, { recursive: true, force: true });
  });

  it("carries messages at the URL that it names", async () => {
    const connection = await connect(broker.url);
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue("kept", { durable: true, arguments: { "x-queue-type": "quorum" } });
    channel.sendToQueue("kept", Buffer.from("one"), { persistent: true });
    await channel.waitForConfirms();
    await connection.close();
    const { messages } = await askManagement(broker, "/queues/%2F/kept", ({ messages }) => messages === 1);
    expect(messages).to.equal(1);
  });

  it("refuses guest", async () => {
    const error = await connect(`amqp://guest:guest@127.0.0.1:${port}`).catch((error: Error) => error.message);
    expect(error).to.match(/ACCESS_REFUSED/);
  });

  it("keeps its password from others", async () => {
    for (const file of ["broker.json", "rabbitmq.conf"]) {
      expect((await stat(join(directory, file))).mode & 0o077, file).to.equal(0);
    }
    expect((await stat(directory)).mode & 0o077).to.equal(0);
  });

  it("has the plugins for federation, for moving messages and for policies", async () => {
    const [node] = await askManagement(broker, "/nodes");
    const wanted = ["rabbitmq_federation", "rabbitmq_management", "rabbitmq_shovel"];
    expect(node.enabled_plugins).to.include.members(wanted);
  });

  it("comes back after SIGKILL with what was confirmed, at the same addresses", async () => {
    process.kill(broker.pid, "SIGKILL");
    expect(await broker.exited).to.equal("SIGKILL");
    await broker.close();
    const again = await startBroker({ directory, port });
    expect([again.url, again.managementUrl]).to.deep.equal([broker.url, broker.managementUrl]);
    broker = again;
    const connection = await connect(broker.url);
    const channel = await connection.createChannel();
    const message = await eventually(async () => {
      const got = await channel.get("kept", { noAck: true });
      if (got === false) throw new Error("no message yet");
      return got;
    });
    expect(message.content.toString()).to.equal("one");
    await connection.close();
  });

  it("serves a quorum queue that was declared the moment before a SIGKILL", async () => {
    const connection = await connect(broker.url);
    connection.on("error", () => undefined);
    const channel = await connection.createChannel();
    channel.on("error", () => undefined);
    await channel.assertQueue("fresh", { durable: true, arguments: { "x-queue-type": "quorum" } });
    process.kill(broker.pid, "SIGKILL");
    await broker.exited;
    await broker.close();
    broker = await startBroker({ directory, port });
    const again = await connect(broker.url);
    const confirming = await again.createConfirmChannel();
    confirming.sendToQueue("fresh", Buffer.from("one"), { persistent: true, mandatory: true });
    await confirming.waitForConfirms();
    await again.close();
  });

  it("does not share its directory with a second one, nor its port with anybody", async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), "muster-broker-"));
    const error = await startBroker({ directory: elsewhere, port }).catch((error: unknown) => error);
    await rm(elsewhere, { recursive: true });
    expect(error).to.be.instanceOf(SetupError);
    expect((error as Error).message)
      .to.include(`Port ${port}`)
      .and.include("MUSTER_AMQP_PORT");
  });

  it("leaves no process and no open port behind when it is closed", async () => {
    const { epmdPort, managementPort } = await nodeRecord();
    const { processes } = JSON.parse(await readFile(join(directory, "run.json"), "utf8"));
    const pids: number[] = Object.values(processes as Record<string, { pid: number }>).map(({ pid }) => pid);
    expect(pids).to.include(broker.pid).and.to.have.length(2);
    await broker.close();
    for (const pid of pids) expect(await identifyProcess(pid)).to.equal(undefined);
    for (const taken of [port, epmdPort, managementPort]) expect(await isPortFree(taken), `${taken}`).to.equal(true);
  });
});

describe("a port where something else answers", () => {
  let server: Server;
  before(async () => {
    server = createServer((socket) =>
      socket
        .resume()
        .on("error", () => undefined)
        .end("HTTP/1.1 400 Bad Request\r\n\r\n"),
    );
    await once(server.listen(0, "127.0.0.1"), "listening");
  });
  after(async () => {
    server.close();
    await once(server, "close");
  });

  it("does not pass for a broker", async () => {
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("a TCP server has a port");
    expect(await answersAmqp(address.port)).to.equal(false);
  });
});

/** Statistics lag behind by up to five seconds: `until` says what is waited for. */
async function askManagement(
  broker: Broker,
  path: string,
  // biome-ignore lint/suspicious/noExplicitAny: answers of the management API have no types
  until: (answer: any) => boolean = () => true,
  // biome-ignore lint/suspicious/noExplicitAny: the same
): Promise<any> {
  const url = new URL(broker.managementUrl);
  const authorization = basicAuthorization(url);
  return await eventually(async () => {
    const response = await fetch(`${url.origin}/api${path}`, { headers: { authorization } });
    expect(response.status).to.equal(200);
    const answer = await response.json();
    expect(until(answer), JSON.stringify(answer)).to.equal(true);
    return answer;
  });
}
