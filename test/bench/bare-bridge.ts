/**
 * The floor under the bridge: an HTTP server that only publishes and delivers, with nothing checked, kept or settled.
 * `POST /` publishes a command in the form that all take, to one exchange and key, and answers its id at the confirm; `GET /`
 * answers with the next message of a queue. Prints its port.
 *
 * @example node --import tsx test/bench/bare-bridge.ts amqp://… muster.unicast some-key bench.bare
 */
import { randomUUID } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type ConsumeMessage, connect } from "amqplib";

const [url = "", exchange = "", key = "", queue = ""] = process.argv.slice(2);
const publishing = await (await connect(url, { noDelay: true })).createConfirmChannel();
const consuming = await (await connect(url, { noDelay: true })).createChannel();
await consuming.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });

const waiting: ServerResponse[] = [];
const ready: ConsumeMessage[] = [];

function deliver(): void {
  while (waiting.length > 0 && ready.length > 0) {
    const message = ready.shift() as ConsumeMessage;
    waiting.shift()?.end(JSON.stringify({ body: JSON.parse(message.content.toString()) }));
    consuming.ack(message);
  }
}

await consuming.consume(queue, (message) => {
  if (message === null) return;
  ready.push(message);
  deliver();
});

const server = createServer((request, response) => {
  if (request.method === "GET") {
    waiting.push(response);
    deliver();
    return;
  }
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const { name, body } = JSON.parse(Buffer.concat(chunks).toString());
    const messageId = randomUUID();
    const options = {
      ...{ persistent: true, mandatory: true, messageId, type: name, contentType: "application/json" },
      timestamp: Math.floor(Date.now() / 1000),
      headers: { "muster-kind": "command" },
    };
    publishing.publish(exchange, key, Buffer.from(JSON.stringify(body)), options, (error: Error | null) => {
      const headers = { "content-type": "application/json", location: `/v1/commands/${messageId}` };
      response.writeHead(error === null ? 202 : 503, headers).end(JSON.stringify({ id: messageId }));
    });
  });
});
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port));
