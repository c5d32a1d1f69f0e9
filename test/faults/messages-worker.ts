/**
 * A process of components for the fault tests: `messages-worker.ts <bridge URL> <type> <id>…`. Each handles the command
 * "work" and prints `ran <id> <message id> <body>` when the handler begins; handlers take a few milliseconds.
 */
import { setTimeout as delay } from "node:timers/promises";
import { connect } from "../../clients/typescript/src/index.ts";

const [url = "", type = "", ...ids] = process.argv.slice(2);

for (const id of ids) {
  const component = await connect({ url, id, type, ttlMs: 60_000, transport: "amqp", cacheDirectory: false });
  component.handle("work", async (message) => {
    process.stdout.write(`ran ${id} ${message.id} ${JSON.stringify(message.body)}\n`);
    await delay(Math.random() * 5);
  });
  process.once("SIGTERM", () => void component.close().finally(() => process.exit(0)));
}
process.stdout.write("working\n");
