/** What the client costs above the library that it stands on: the same work by bare amqplib, in the same process; and by NATS. */
import { randomUUID } from "node:crypto";
import { connect as connectBroker, type Options } from "amqplib";
import { connect } from "../../../clients/typescript/src/index.ts";
import { componentPlan, sitePlan } from "../../../coordinator/messaging/topology.ts";
import { freshVhost } from "../../support/broker.ts";
import { declare } from "../../support/declare.ts";
import { FakeCoordinator } from "../../support/fake-coordinator.ts";
import { type Figures, latencyFigures, type Row } from "../harness.ts";
import { startNats } from "../nats.ts";

const body = { reading: 42, unit: "percent", at: "2025-01-31T12:00:00.000Z" };
/** Many short rounds: on a busy machine whatever else runs then hits both alike. */
const requestsPerRound = 300;
const commandsPerRound = 3_000;
/** Sent and not yet confirmed at a time. */
const window = 500;

async function setUp() {
  const vhost = await freshVhost();
  const coordinator = new FakeCoordinator();
  await coordinator.start();
  coordinator.amqpUrl = vhost.url;
  const [asker, answerer] = [`asker-${randomUUID().slice(0, 8)}`, `answerer-${randomUUID().slice(0, 8)}`];
  await declare(vhost.url, sitePlan("bench"), ...[asker, answerer].map((id) => componentPlan({ id, type: "bench" })));
  const join = (id: string) =>
    connect({ url: coordinator.url, id, type: "bench", transport: "amqp", cacheDirectory: false });
  const components = await Promise.all([join(asker), join(answerer)]);
  const close = async () => {
    await Promise.all(components.map((component) => component.close()));
    await coordinator.stop();
    await vhost.close();
  };
  return { vhost, asker: components[0], answerer: components[1], close };
}

async function oneByOne(ask: () => Promise<unknown>): Promise<Figures> {
  const latenciesMs: number[] = [];
  for (let count = 0; count < requestsPerRound; count += 1) {
    const startMs = performance.now();
    await ask();
    latenciesMs.push(performance.now() - startMs);
  }
  return latencyFigures(latenciesMs);
}

async function windowed(send: () => Promise<unknown>): Promise<Figures> {
  const startMs = performance.now();
  let left = commandsPerRound;
  const sendInTurn = async () => {
    while (left > 0) {
      left -= 1;
      await send();
    }
  };
  await Promise.all(Array.from({ length: window }, sendInTurn));
  return { opsPerSecond: commandsPerRound / ((performance.now() - startMs) / 1000) };
}

export const rows: Row[] = [
  {
    work: `request–reply, one at a time, ${requestsPerRound} a round`,
    figure: "p50Ms",
    better: "lower",
    targetRatio: 1.2,
    targetValue: 1,
    rounds: 21,
    async setUp() {
      const { vhost, asker, answerer, close } = await setUp();
      answerer.handle("read", ({ body: asked }) => asked);
      const raw = await rawRequester(vhost.url, "raw");
      // What the client cannot be faster than: a request that says who asks for what, ends at its deadline, and comes back from nobody.
      const saying = await rawRequester(vhost.url, "saying", {
        request: { ...said({ "muster-kind": "request", "muster-deadline": Date.now() }), expiration: 30_000 },
        reply: said({ "muster-kind": "reply" }),
      });
      const nats = await startNats();
      return {
        contenders: [
          { name: "client", measure: () => oneByOne(() => asker.request({ component: answerer.id }, "read", body)) },
          { name: "amqplib with a reply queue", measure: () => oneByOne(() => raw.ask(body)) },
          { name: "floor: amqplib, a request's fields", measure: () => oneByOne(() => saying.ask(body)) },
          ...(nats === undefined ? [] : [{ name: "NATS", measure: () => oneByOne(() => nats.ask(body)) }]),
        ],
        tearDown: async () => {
          await nats?.close();
          await saying.close();
          await raw.close();
          await close();
        },
      };
    },
  },
  {
    work: `commands to one component, confirmed, ${window} in flight, ${commandsPerRound} a round`,
    figure: "opsPerSecond",
    better: "higher",
    targetRatio: 0.8,
    rounds: 11,
    async setUp() {
      const { vhost, asker, close } = await setUp();
      const [mine, bare] = ["client", "bare"].map((name) => `${name}-${randomUUID().slice(0, 8)}`) as [string, string];
      await declare(vhost.url, componentPlan({ id: mine, type: "bench" }), componentPlan({ id: bare, type: "bench" }));
      const raw = await rawSender(vhost.url, bare);
      const nats = await startNats();
      const purge = (id: string) => vhost.api("DELETE", `/queues/{vhost}/muster.${id}.commands/contents`);
      return {
        contenders: [
          {
            name: "client",
            measure: async () => {
              await purge(mine);
              return await windowed(() => asker.command({ component: mine }, "set", body));
            },
          },
          {
            name: "amqplib with confirms",
            measure: async () => {
              await purge(bare);
              return await windowed(() => raw.send(body));
            },
          },
          ...(nats === undefined
            ? []
            : [
                {
                  name: "NATS JetStream, acknowledged",
                  measure: async () => {
                    await nats.purge();
                    return await windowed(() => nats.send(body));
                  },
                },
              ]),
        ],
        tearDown: async () => {
          await nats?.close();
          await raw.close();
          await close();
        },
      };
    },
  },
];

/** What a message of Muster has beside an address and a body. */
function said(headers: object): Options.Publish {
  return { type: "read", messageId: randomUUID(), mandatory: true, headers: { "muster-from": "bench", ...headers } };
}

/** @param fields of each request and of each reply, beside those that bring the reply back. */
async function rawRequester(
  url: string,
  name: string,
  fields: { request: Options.Publish; reply: Options.Publish } = { request: {}, reply: {} },
) {
  const [client, server] = await Promise.all([1, 2].map(() => connectBroker(url, { noDelay: true })));
  if (client === undefined || server === undefined) throw new Error("no connection");
  const asking = await client.createChannel();
  const answering = await server.createChannel();
  const [requests, replies] = [`${name}-requests`, `${name}-replies`];
  await answering.assertQueue(requests);
  await asking.assertQueue(replies);
  await answering.prefetch(100);
  await answering.consume(requests, (message) => {
    if (message === null) return;
    const { replyTo, correlationId } = message.properties;
    const asked: unknown = JSON.parse(message.content.toString());
    answering.sendToQueue(replyTo as string, Buffer.from(JSON.stringify(asked)), {
      ...fields.reply,
      correlationId: correlationId as string,
    });
    answering.ack(message);
  });
  const waiting = new Map<string, (value: unknown) => void>();
  await asking.consume(
    replies,
    (message) => {
      if (message === null) return;
      const id = message.properties.correlationId as string;
      waiting.get(id)?.(JSON.parse(message.content.toString()));
      waiting.delete(id);
    },
    { noAck: true },
  );
  return {
    ask: (asked: unknown) =>
      new Promise((resolve) => {
        const correlationId = randomUUID();
        waiting.set(correlationId, resolve);
        const options = { ...fields.request, correlationId, replyTo: replies };
        asking.sendToQueue(requests, Buffer.from(JSON.stringify(asked)), options);
      }),
    close: async () => {
      await client.close();
      await server.close();
    },
  };
}

/** To a queue of the same kind, through the same exchange. */
async function rawSender(url: string, id: string) {
  const connection = await connectBroker(url, { noDelay: true });
  const channel = await connection.createConfirmChannel();
  return {
    send: (sent: unknown) =>
      new Promise<void>((resolve, reject) => {
        const content = Buffer.from(JSON.stringify(sent));
        const options = { persistent: true, mandatory: true, messageId: randomUUID(), contentType: "application/json" };
        channel.publish("muster.unicast", id, content, options, (error) => (error ? reject(error) : resolve()));
      }),
    close: () => connection.close(),
  };
}
