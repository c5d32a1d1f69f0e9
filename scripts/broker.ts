import { chmod, mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { answersAmqp } from "./broker/handshake.ts";
import { ensureRabbitmq, type Installation } from "./broker/installed.ts";
import { untilServing, workOf } from "./broker/readiness.ts";
import { openRecord, settingsOf, withFreePorts, writeRecord } from "./broker/record.ts";
import { electLeaders, markRunning, markStopped } from "./broker/recover.ts";
import { enabledPlugins, type NodeSettings, nodeEnvironment, renderConfiguration } from "./broker/settings.ts";
import { type Claim, claimDirectory } from "./claim.ts";
import { isPortFree } from "./ports.ts";
import { type ProcessGroupOptions, startGroup } from "./process-group.ts";
import { SetupError } from "./setup-error.ts";

export interface BrokerOptions {
  /** All that the node keeps. Its record `broker.json` is in it, so the next start finds users, ports and messages. */
  directory: string;
  port: number;
  /** Fixed at the first start of a directory: the node's database belongs to it. Default `muster@localhost`. */
  nodeName?: string;
  /** Told in a few words what takes the time. */
  progress?: (line: string) => void;
  /** Gives up the installation or the start. */
  signal?: AbortSignal;
}

export interface Broker {
  /** With the password of the directory's own user. */
  url: string;
  managementUrl: string;
  /** The Erlang machine; it leads a process group of its own, so that a terminal's Ctrl-C does not reach it. */
  pid: number;
  /** Resolves when the node has ended, with what ended it. Its name daemon runs until `close`. */
  exited: Promise<string>;
  /** Stops the node, in order and at last by force, and its name daemon. May be called again. */
  close(): Promise<void>;
}

const stopTimeoutMs = 20_000;

/**
 * Starts a private RabbitMQ node: its own name daemon, ports, database, user and plugins, on the loopback interface
 * only. RabbitMQ is installed when it is missing and that is possible.
 *
 * What an earlier process left behind in this directory is stopped first. Should this process be killed, the node is
 * stopped with it.
 * @throws SetupError when RabbitMQ is missing, the port is taken, the directory is in use, or the node does not start.
 */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const progress = options.progress ?? (() => undefined);
  const directory = resolve(options.directory);
  const installation = await ensureRabbitmq(progress, options.signal);
  const found = await openRecord(directory, options.nodeName ?? "muster@localhost");
  const claim = await claimDirectory(directory, { what: "The private broker", progress, stopTimeoutMs });
  if (!(await isPortFree(options.port))) {
    await claim.release();
    throw new SetupError(
      `Port ${options.port} of 127.0.0.1 is taken, and the private RabbitMQ needs it. Choose another with ` +
        "MUSTER_AMQP_PORT, or use the broker that runs there with MUSTER_AMQP_URL.",
    );
  }
  const record = await withFreePorts(found);
  const settings = settingsOf(record, directory, options.port);
  await writeNodeFiles(settings);
  await writeRecord(directory, record);
  const wasKilled = await markRunning(directory);
  const node = await launch(installation, settings, claim);
  try {
    await untilReady(node, settings, progress, options.signal);
    if (wasKilled) await electLeaders(installation, nodeEnvironment(settings, process.env), progress);
  } catch (error) {
    await node.close();
    throw error;
  }
  const credentials = `${settings.user}:${encodeURIComponent(settings.password)}`;
  return {
    url: `amqp://${credentials}@127.0.0.1:${settings.amqpPort}`,
    managementUrl: `http://${credentials}@127.0.0.1:${settings.managementPort}`,
    ...node,
  };
}

async function writeNodeFiles(settings: NodeSettings): Promise<void> {
  for (const folder of ["home", "mnesia", "log", "plugins", "generated"]) {
    await mkdir(join(settings.directory, folder), { recursive: true });
  }
  const configuration = join(settings.directory, "rabbitmq.conf");
  await writeFile(configuration, renderConfiguration(settings), { mode: 0o600 });
  await chmod(configuration, 0o600);
  await writeFile(join(settings.directory, "enabled_plugins"), enabledPlugins);
}

/** Starts both processes. The name daemon is ours and not the node's child, so that it ends with us. */
async function launch(
  installation: Installation,
  settings: NodeSettings,
  claim: Claim,
): Promise<Pick<Broker, "pid" | "exited" | "close">> {
  const output = await open(startLogOf(settings.directory), "w");
  const options: ProcessGroupOptions = {
    cwd: settings.directory,
    env: nodeEnvironment(settings, process.env),
    stdio: ["ignore", output.fd, output.fd],
  };
  const epmd = await startGroup(
    installation.epmd,
    ["-port", String(settings.epmdPort), "-address", "127.0.0.1"],
    options,
  );
  const node = await startGroup(installation.server, [], options);
  await output.close();
  await claim.note("the name daemon", epmd.identity);
  await claim.note("the broker", node.identity);
  const stop = async () => {
    await node.end(stopTimeoutMs);
    await epmd.end(stopTimeoutMs);
    if ((await node.exited) === "exit code 0") await markStopped(settings.directory);
    await claim.release();
  };
  let closing: Promise<void> | undefined;
  return {
    pid: node.identity.pid,
    exited: node.exited,
    close: () => {
      closing ??= stop();
      return closing;
    },
  };
}

/** @throws SetupError with the node's own last words when it ends, or neither answers nor gets on. */
async function untilReady(
  node: Pick<Broker, "pid" | "exited">,
  settings: NodeSettings,
  progress: (line: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const starting = {
    answers: () => answersAmqp(settings.amqpPort),
    exited: node.exited,
    work: () => workOf(node.pid, join(settings.directory, "log")),
  };
  const failure = await untilServing(starting, progress, signal);
  if (failure === undefined) return;
  throw new SetupError(
    `The private RabbitMQ ${failure}. Its files are in ${settings.directory}; its last lines were:\n` +
      (await lastLines(startLogOf(settings.directory))),
  );
}

const startLogOf = (directory: string) => join(directory, "log", "start.log");

async function lastLines(file: string): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  const lines = text.trimEnd().split("\n").slice(-20);
  return lines.map((line) => `  ${line}`).join("\n");
}
