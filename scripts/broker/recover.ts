import { access, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CommandError, runCommand } from "../command.ts";
import type { Installation } from "./installed.ts";

/**
 * RabbitMQ writes down which quorum queues exist about a second after they are declared. When a node is killed before,
 * it starts such a queue as a new, empty member that waits for others to elect it, for ever: publishes are never
 * confirmed and a declaration never returns. In a cluster of one it may elect itself. Seen with 3.10.8.
 */
const elect =
  "[ra:trigger_election({element(1, Member), node()}) || Member <- ets:tab2list(ra_state), element(2, Member) =/= leader].";

const markOf = (directory: string) => join(directory, "not-stopped");

/** Marks that the node runs, and tells whether the last one was killed. */
export async function markRunning(directory: string): Promise<boolean> {
  const killed = await access(markOf(directory)).then(
    () => true,
    () => false,
  );
  await writeFile(markOf(directory), "A node that is stopped in order removes this file.\n");
  return killed;
}

export async function markStopped(directory: string): Promise<void> {
  await rm(markOf(directory), { force: true });
}

/** Lets the quorum queues of a node that was killed serve again. It takes 1 to 3 s, in the command line of RabbitMQ. */
export async function electLeaders(
  installation: Installation,
  env: NodeJS.ProcessEnv,
  progress: (line: string) => void,
): Promise<void> {
  try {
    await runCommand(join(dirname(installation.server), "rabbitmqctl"), ["eval", elect], { env });
  } catch (error) {
    // The queues that were declared longer ago, nearly always all of them, serve without it.
    if (!(error instanceof CommandError)) throw error;
    progress(`quorum queues could not be told to elect a leader: ${error.message}`);
  }
}
