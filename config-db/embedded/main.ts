/**
 * The embedded config database as a process of its own, for a coordinator to start (`child_process.fork`) or for a hand
 * to run:
 *
 *     node --import tsx config-db/embedded/main.ts --port 5984 --directory .muster/couchdb
 *
 * Started with an IPC channel it sends `{url}` when it is ready, `{error}` when it cannot be, and ends when the channel
 * does: it outlives no parent. SIGTERM ends it in order.
 */
import { parseArgs } from "node:util";
import { pino } from "pino";
import { startEmbedded } from "./server.ts";

const usage =
  "usage: main.ts [--host 127.0.0.1] [--port 5984] [--directory <path>]\n" +
  "Without --directory everything is kept in memory. Each has a variable: MUSTER_COUCHDB_HOST, MUSTER_COUCHDB_PORT,\n" +
  "MUSTER_COUCHDB_DIRECTORY; MUSTER_COUCHDB_USER and MUSTER_COUCHDB_PASSWORD together ask for Basic authentication.";

const logger = pino({ level: process.env.MUSTER_LOG_LEVEL ?? "warn" }, pino.destination(2));
const hasParent = process.send !== undefined;

function readSettings() {
  const { values } = parseArgs({
    options: { host: { type: "string" }, port: { type: "string" }, directory: { type: "string" } },
  });
  const { env } = process;
  const port = values.port ?? env.MUSTER_COUCHDB_PORT ?? "5984";
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) {
    throw new Error(`the port must be a number from 0 to 65535, got "${port}" (--port, MUSTER_COUCHDB_PORT)`);
  }
  const { MUSTER_COUCHDB_USER: user, MUSTER_COUCHDB_PASSWORD: password } = env;
  if ((user === undefined) !== (password === undefined)) {
    throw new Error("MUSTER_COUCHDB_USER and MUSTER_COUCHDB_PASSWORD go together: only one of them is set");
  }
  const directory = values.directory ?? env.MUSTER_COUCHDB_DIRECTORY;
  return {
    host: values.host ?? env.MUSTER_COUCHDB_HOST ?? "127.0.0.1",
    port: Number(port),
    ...(directory !== undefined && { directory }),
    ...(user !== undefined && password !== undefined && { credentials: { user, password } }),
  };
}

/** Tells the parent, when there is one, and resolves when it has been told: the process may end after it. */
function tellParent(message: { url: string } | { error: string }): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, undefined, {}, () => resolve());
  });
}

async function main(): Promise<void> {
  const settings = readSettings();
  const embedded = await startEmbedded({ ...settings, logger });
  const end = () => {
    // A client that does not go away must not keep the process.
    setTimeout(() => process.exit(0), 8_000).unref();
    void embedded.close().finally(() => process.exit(0));
  };
  process.once("SIGTERM", end);
  // Ctrl-C goes to the whole group; the parent still needs its store while it drains, and then ends this process.
  process.on("SIGINT", hasParent ? () => {} : end);
  if (hasParent) process.once("disconnect", end);
  if (hasParent && !process.connected) end();
  process.stdout.write(`embedded config database: ${embedded.url}\n`);
  await tellParent({ url: embedded.url });
}

// PouchDB leaves some promises of its background work to themselves: a fault there is no reason to end.
process.on("unhandledRejection", (reason) => logger.error({ reason: String(reason) }, "an unhandled rejection"));
process.on("uncaughtException", (error) => {
  logger.fatal({ reason: String(error), stack: error.stack }, "ending after a fault");
  process.exit(1);
});

main().catch(async (error: unknown) => {
  const { message, code } = error as Error & { code?: string };
  const isUsage = code?.startsWith("ERR_PARSE_ARGS") === true;
  process.stderr.write(`${message}\n${isUsage ? `${usage}\n` : ""}`);
  await tellParent({ error: message });
  process.exit(1);
});
