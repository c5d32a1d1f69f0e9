/**
 * The bridge beside RabbitMQ's own HTTP API and, as floors, a server that does nothing else (bare-bridge.ts) and AMQP; hints to
 * many components beside one bare fanout.
 */
import { randomUUID } from "node:crypto";
import { Agent, request as httpRequest } from "node:http";
import { type ConsumeMessage, connect } from "amqplib";
import { pino } from "pino";
import { startEmbedded } from "../../../config-db/embedded/server.ts";
import { install } from "../../../config-db/installer.ts";
import { exchanges, queues, typeSignalKey } from "../../../config-db/names.ts";
import { Store } from "../../../config-db/store.ts";
import type { Member } from "../../../coordinator/messaging/members.ts";
import { Messaging } from "../../../coordinator/messaging/messaging.ts";
import { freshVhost, type Vhost } from "../../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../../support/coordinator.ts";
import { eventually } from "../../support/eventually.ts";
import { spawnEntry } from "../../support/processes.ts";
import { type Figures, latencyFigures, type Row } from "../harness.ts";

/** The first round is to warm up: a bridge is slower in its first thousand calls than in all that come after. */
const callsPerRound = 1_000;
const perCall = 10;
const hintsPerRound = 5;
const components = 1_000;
const body = { reading: 42, unit: "percent", at: "2025-01-31T12:00:00.000Z" };
const agent = new Agent({ keepAlive: true, noDelay: true });

/** One HTTP call over a kept connection, without what fetch costs; the same for both. */
function call(method: string, url: URL, content?: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const credentials = url.username === "" ? {} : { auth: `${url.username}:${decodeURIComponent(url.password)}` };
    const { hostname, port, pathname, search } = url;
    const headers = content === undefined ? {} : { "content-type": "application/json" };
    const options = { agent, method, hostname, port, path: pathname + search, headers, ...credentials };
    const asked = httpRequest(options, (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (chunk: string) => {
        text += chunk;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, text }));
    });
    asked.on("error", reject);
    asked.end(content);
  });
}

async function expectStatus(answer: Promise<{ status: number; text: string }>, status: number): Promise<string> {
  const got = await answer;
  if (got.status !== status) throw new Error(`${got.status} instead of ${status}: ${got.text.slice(0, 300)}`);
  return got.text;
}

/** @param work may time itself; what it resolves with is then what counts, in milliseconds. */
async function timed(count: number, work: () => Promise<unknown>): Promise<Figures> {
  const latenciesMs: number[] = [];
  for (let n = 0; n < count; n += 1) {
    const startMs = performance.now();
    const own = await work();
    latenciesMs.push(typeof own === "number" ? own : performance.now() - startMs);
  }
  return latencyFigures(latenciesMs);
}

interface Bench {
  vhost: Vhost;
  bridge: RunningCoordinator;
  id: string;
  url(path: string): URL;
  management(path: string): URL;
  close(): Promise<void>;
}

async function startBridge(): Promise<Bench> {
  const vhost = await freshVhost();
  const args = ["--amqp-management-url", vhost.managementUrl];
  const bridge = await startCoordinator({ amqpUrl: vhost.url, args });
  const id = `bench-${randomUUID().slice(0, 8)}`;
  await bridge.call("PUT", `/v1/components/${id}`, { type: "bench", ttlMs: 3_600_000 });
  const url = (path: string) => new URL(path, bridge.url);
  await eventually(async () => {
    await expectStatus(call("GET", url(`/v1/components/${id}/inbox`)), 200);
  });
  return {
    vhost,
    bridge,
    id,
    url,
    management: (path) => new URL(`/api${path.replace("{vhost}", vhost.vhost)}`, vhost.managementUrl),
    close: async () => {
      await bridge.close();
      await vhost.close();
    },
  };
}

const bareName = "floor: node:http on amqplib";
const noHttpName = "floor: amqplib without HTTP";

/** A process of its own, as the bridge is. */
async function startBareBridge(vhost: Vhost, key: string) {
  const queue = "bench.bare";
  const started = await spawnEntry("test/bench/bare-bridge.ts", { args: [vhost.url, exchanges.unicast, key, queue] });
  const port = await started.line(/^\d+$/);
  return { url: new URL(`http://127.0.0.1:${port}/`), queue, close: () => started.close() };
}

/** Publishes to a queue that nobody reads; emptied between rounds by whoever measures. */
function publishRow(track: boolean): Row {
  return {
    work: `HTTP publish of a ${track ? "tracked" : "plain"} command, one at a time, ${callsPerRound} a round`,
    figure: "p50Ms",
    better: "lower",
    ...(track ? {} : { targetRatio: 1 / 3 }),
    async setUp() {
      const { vhost, id, url, management, close } = await startBridge();
      const purge = () => vhost.api("DELETE", `/queues/{vhost}/${queues.commands(id)}/contents`);
      const command = JSON.stringify({ to: { component: id }, name: "bench", body, track });
      const message = JSON.stringify({
        properties: { delivery_mode: 2, content_type: "application/json", headers: {} },
        routing_key: id,
        payload: JSON.stringify(body),
        payload_encoding: "string",
      });
      const viaBridge = () => expectStatus(call("POST", url("/v1/commands"), command), 202);
      const toManagement = management(`/exchanges/{vhost}/${exchanges.unicast}/publish`);
      const viaManagement = () => expectStatus(call("POST", toManagement, message), 200);
      const bare = await startBareBridge(vhost, id);
      const viaBare = () => expectStatus(call("POST", bare.url, command), 202);
      const connection = await connect(vhost.url, { noDelay: true });
      const channel = await connection.createConfirmChannel();
      const content = Buffer.from(JSON.stringify(body));
      const viaChannel = () =>
        new Promise<string>((resolve, reject) => {
          const options = { persistent: true, mandatory: true, messageId: "bare" };
          const told = (error: Error | null) => (error === null ? resolve("") : reject(error));
          channel.publish(exchanges.unicast, id, content, options, told);
        });
      const round = (publish: () => Promise<string>) => async () => {
        const figures = await timed(callsPerRound, publish);
        await purge();
        return figures;
      };
      return {
        contenders: [
          { name: "bridge", measure: round(viaBridge) },
          { name: "RabbitMQ management API", measure: round(viaManagement) },
          { name: bareName, measure: round(viaBare) },
          { name: noHttpName, measure: round(viaChannel) },
        ],
        tearDown: async () => {
          await connection.close();
          await bare.close();
          await close();
        },
      };
    },
  };
}

/** A bridge, and beside it a queue for the management API and a channel that publishes to both. */
async function startDelivering() {
  const { vhost, close, ...bridge } = await startBridge();
  const connection = await connect(vhost.url, { noDelay: true });
  const channel = await connection.createConfirmChannel();
  const queue = "bench.management";
  await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
  const content = Buffer.from(JSON.stringify(body));
  /** @returns the message's id. */
  const publish = (exchange: string, key: string) => {
    const messageId = randomUUID();
    const headers = { "muster-kind": "command" };
    channel.publish(exchange, key, content, { messageId, type: "bench", persistent: true, headers });
    return messageId;
  };
  return {
    ...bridge,
    vhost,
    channel,
    queue,
    publish,
    close: async () => {
      await connection.close();
      await close();
    },
  };
}

const deliveryRow: Row = {
  work: `from an AMQP publish to the hands of an HTTP consumer that waits for it, ${callsPerRound} a round`,
  figure: "p50Ms",
  better: "lower",
  targetRatio: 1 / 4,
  async setUp() {
    const { vhost, id, url, management, channel, queue, publish, close } = await startDelivering();
    const poll = async (): Promise<{ delivery: string; id: string } | undefined> =>
      JSON.parse(await expectStatus(call("GET", url(`/v1/components/${id}/inbox?max=1&waitMs=10000`)), 200))
        .messages[0];
    const viaBridge = async (): Promise<number> => {
      let polled = poll();
      await sent(id);
      const startMs = performance.now();
      const published = publish(exchanges.unicast, id);
      for (;;) {
        const message = await polled;
        const tookMs = performance.now() - startMs;
        await expectStatus(call("POST", url(`/v1/components/${id}/inbox/${message?.delivery}/ack`)), 204);
        if (message?.id === published) return tookMs;
        // What its registration is signalled by comes here, too: left in, each poll would find the message before its own.
        polled = poll();
      }
    };
    const get = JSON.stringify({ count: 1, ackmode: "ack_requeue_false", encoding: "auto" });
    const viaManagement = async (): Promise<number> => {
      const startMs = performance.now();
      publish("", queue);
      // It cannot wait: an empty answer comes at once, and one asks again.
      for (;;) {
        const text = await expectStatus(call("POST", management(`/queues/{vhost}/${queue}/get`), get), 200);
        if (text !== "[]") return performance.now() - startMs;
      }
    };
    const bare = await startBareBridge(vhost, id);
    const viaBare = async (): Promise<number> => {
      const polled = expectStatus(call("GET", bare.url), 200);
      await sent(id);
      const startMs = performance.now();
      publish("", bare.queue);
      await polled;
      return performance.now() - startMs;
    };
    const direct = "bench.direct";
    await channel.assertQueue(direct, { durable: true, arguments: { "x-queue-type": "quorum" } });
    let arrived = () => {};
    await channel.consume(direct, (message) => {
      if (message === null) return;
      channel.ack(message);
      arrived();
    });
    const viaChannel = () =>
      new Promise<void>((resolve) => {
        arrived = resolve;
        publish("", direct);
      });
    /** The poll must wait already when the message is published: it has been handed to the server by then. */
    const sent = async (_id: string) => new Promise((resolve) => setTimeout(resolve, 3));
    return {
      contenders: [
        { name: "bridge, long poll", measure: () => timed(callsPerRound, viaBridge) },
        { name: "RabbitMQ management API, polled", measure: () => timed(callsPerRound, viaManagement) },
        { name: bareName, measure: () => timed(callsPerRound, viaBare) },
        { name: noHttpName, measure: () => timed(callsPerRound, viaChannel) },
      ],
      tearDown: async () => {
        await bare.close();
        await close();
      },
    };
  },
};

/**
 * What a message's share is of the call that hands it over. The management API's `get` settles by that, and who dies with
 * the message has lost it; the bridge's is settled by a call of its own, which is not in the figure.
 */
const takingRow: Row = {
  work: `HTTP call that hands over waiting messages, up to ${perCall} a call, per message, ${callsPerRound} calls a round`,
  figure: "p50Ms",
  better: "lower",
  targetRatio: 1 / 4,
  async setUp() {
    const { vhost, id, url, management, channel, queue, publish, close } = await startDelivering();
    const round = async (exchange: string, key: string, from: string, take: () => Promise<number>) => {
      for (let n = 0; n < perCall * callsPerRound; n++) publish(exchange, key);
      await channel.waitForConfirms();
      const figures = await timed(callsPerRound, take);
      await vhost.api("DELETE", `/queues/{vhost}/${from}/contents`);
      return figures;
    };
    const inbox = `/v1/components/${id}/inbox`;
    const viaBridge = async (): Promise<number> => {
      const startMs = performance.now();
      const polled = await expectStatus(call("GET", url(`${inbox}?max=${perCall}&waitMs=10000`)), 200);
      const tookMs = performance.now() - startMs;
      const { messages } = JSON.parse(polled) as { messages: { delivery: string }[] };
      const ack = ({ delivery }: { delivery: string }) => call("POST", url(`${inbox}/${delivery}/ack`));
      await Promise.all(messages.map((message) => expectStatus(ack(message), 204)));
      return tookMs / messages.length;
    };
    const get = JSON.stringify({ count: perCall, ackmode: "ack_requeue_false", encoding: "auto" });
    const viaManagement = async (): Promise<number> => {
      const startMs = performance.now();
      const got = await expectStatus(call("POST", management(`/queues/{vhost}/${queue}/get`), get), 200);
      return (performance.now() - startMs) / (JSON.parse(got) as unknown[]).length;
    };
    return {
      contenders: [
        { name: "bridge, poll", measure: () => round(exchanges.unicast, id, queues.commands(id), viaBridge) },
        { name: "RabbitMQ management API, get", measure: () => round("", queue, queue, viaManagement) },
      ],
      tearDown: close,
    };
  },
};

const hintRow: Row = {
  work: `a hint to ${components} components, until the last has it, ${hintsPerRound} a round`,
  figure: "p50Ms",
  better: "lower",
  targetValue: 100,
  async setUp() {
    const vhost = await freshVhost();
    const store = await startEmbedded({ port: 0 });
    await install(new Store(store.url));
    // Registered only once it is ready: what this row needs of their queues it declares itself, in a tenth of the time.
    const members: Member[] = [];
    const messaging = new Messaging({
      amqpUrl: vhost.url,
      managementUrl: vhost.managementUrl,
      site: "bench",
      store: new Store(store.url),
      members: { get: (id) => members.find((member) => member.id === id), all: () => members },
      logger: pino({ level: "error" }),
    });
    await messaging.start();
    await messaging.ready();
    const connection = await connect(vhost.url, { noDelay: true });
    const consuming = await connect(vhost.url, { noDelay: true });
    const [channel, consumer] = [await connection.createChannel(), await consuming.createChannel()];
    await channel.assertExchange("bench.fanout", "fanout");
    const ids = Array.from({ length: components }, (_, n) => `c${n}`);
    members.push(...ids.map((id) => ({ id, type: "bench", site: "bench", state: "up", ttlMs: 30_000 }) as const));
    let received = 0;
    let all = () => {};
    const take = (message: ConsumeMessage | null) => {
      if (message === null) return;
      consumer.ack(message);
      received += 1;
      if (received === components) all();
    };
    for (const id of ids) {
      await channel.assertQueue(queues.broadcasts(id), { durable: true, arguments: { "x-queue-type": "classic" } });
      await channel.bindQueue(queues.broadcasts(id), exchanges.signals, typeSignalKey("bench"));
      await channel.bindQueue(queues.broadcasts(id), "bench.fanout", "");
      await consumer.consume(queues.broadcasts(id), take);
    }
    const last = async (send: () => void) => {
      received = 0;
      const done = new Promise<void>((resolve) => {
        all = resolve;
      });
      send();
      await done;
      return undefined;
    };
    const failed = (error: unknown) => {
      throw error;
    };
    const signal = () => {
      messaging.signal(ids, { kind: "config", revisionOf: () => "etag" }).catch(failed);
    };
    const content = Buffer.from(JSON.stringify({ kind: "config", id: "c0", revision: "etag" }));
    const fanout = () => void channel.publish("bench.fanout", "", content, { persistent: false });
    return {
      contenders: [
        { name: "signal to a type", measure: () => timed(hintsPerRound, () => last(signal)) },
        { name: "amqplib, one fanout", measure: () => timed(hintsPerRound, () => last(fanout)) },
      ],
      tearDown: async () => {
        await messaging.close();
        await connection.close();
        await consuming.close();
        await store.close();
        await vhost.close();
      },
    };
  },
};

export const rows: Row[] = [publishRow(false), publishRow(true), deliveryRow, takingRow, hintRow];
