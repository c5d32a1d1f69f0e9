/** Claims the directory of its first argument and ties a sleeping process to itself. Started by tests that kill it. */
import { claimDirectory } from "../../scripts/claim.ts";
import { startGroup } from "../../scripts/process-group.ts";

const claim = await claimDirectory(process.argv[2] ?? "", { what: "The owner's directory", stopTimeoutMs: 1_000 });
const sleeper = await startGroup("sleep", ["300"], { stdio: "ignore" });
await claim.note("the sleeper", sleeper.identity);
process.stdout.write(`tied ${sleeper.identity.pid}\n`);
setInterval(() => undefined, 60_000);
