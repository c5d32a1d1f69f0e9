/** Keeps a broker for test runs by hand until Ctrl-C, and prints how to use it. */
import { once } from "node:events";
import { sharedBroker, stopSharedBroker } from "./broker.ts";

const { url, managementUrl } = await sharedBroker();
process.stdout.write(`export MUSTER_TEST_AMQP_URL=${url} MUSTER_TEST_MANAGEMENT_URL=${managementUrl}\n`);
const keepAlive = setInterval(() => undefined, 60_000);
await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
clearInterval(keepAlive);
await stopSharedBroker();
