/** The coordinator's process: the only file that touches environment, arguments and signals. */
import { pino } from "pino";
import { isMusterError } from "../config-db/errors.ts";
import { Coordinator } from "./coordinator.ts";
import { readSettings, settingsHelp } from "./settings.ts";

const usage = `Usage: node --import tsx coordinator/main.ts [--flag value …]

Runs a site's coordinator: the HTTP bridge, and the embedded config database when no CouchDB is named.

Settings, by flag and environment variable:
${settingsHelp()}

Examples:
  node --import tsx coordinator/main.ts --http-port 8090 --data-dir /var/lib/muster
  MUSTER_COUCHDB_URL=http://admin:secret@couch:5984 MUSTER_AMQP_URL=amqp://rabbit node --import tsx coordinator/main.ts
`;

/** A drain that takes longer is cut: the supervisor above will not wait for ever either. */
const closeMsMax = 15_000;

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  if (argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(usage);
    return;
  }
  const settings = readSettings(argv, process.env);
  const logger = pino({
    level: settings.logLevel,
    base: { site: settings.site },
    serializers: { error: pino.stdSerializers.err },
    redact: ["*.password", "*.token", "*.secret"],
  });
  const coordinator = new Coordinator(settings, { logger });

  let closing = false;
  const close = (signal: string) => {
    if (closing) return;
    closing = true;
    logger.info({ signal }, "draining");
    setTimeout(() => process.exit(1), closeMsMax).unref();
    coordinator.close().then(
      () => process.exit(0),
      (error) => {
        logger.error({ error }, "closing failed");
        process.exit(1);
      },
    );
  };
  process.once("SIGTERM", close);
  process.once("SIGINT", close);
  // A parent that starts us with IPC and dies must not leave us behind.
  process.once("disconnect", () => close("disconnect"));

  const { url } = await coordinator.start();
  logger.info({ url }, "the bridge serves");
  process.send?.({ url });
}

main().catch((error: unknown) => {
  process.stderr.write(isMusterError(error) ? `${error.message}\n` : `${(error as Error).stack ?? error}\n`);
  process.exit(1);
});
