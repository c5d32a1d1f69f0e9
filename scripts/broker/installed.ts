import { constants } from "node:fs";
import { access, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { CommandError, runCommand } from "../command.ts";
import { SetupError } from "../setup-error.ts";

/** What a private node is started from. */
export interface Installation {
  /** The real `rabbitmq-server`, never Debian's wrapper in /usr/sbin: that one switches the user. */
  server: string;
  /** Erlang's name daemon. */
  epmd: string;
}

const serverDirectories = ["/usr/lib/rabbitmq/bin"];
const debianPolicy = "/usr/sbin/policy-rc.d";
const policyMark = "# Written by muster while it installs rabbitmq-server; it may be deleted.";
const lockTimeoutSeconds = 400;

const instruction = `Do one of these and start again:
  - install it:            sudo apt-get install --no-install-recommends rabbitmq-server
                           (macOS: brew install rabbitmq; others: https://www.rabbitmq.com/docs/download)
  - use a running broker:  MUSTER_AMQP_URL=amqp://user:password@host:5672 npm start
  - use containers:        docker compose up`;

/** The RabbitMQ of this machine, or undefined when there is none. */
export async function findRabbitmq(path = process.env.PATH ?? ""): Promise<Installation | undefined> {
  const searched = path.split(delimiter).filter((directory) => directory !== "");
  const server = await firstExecutable("rabbitmq-server", [...serverDirectories, ...searched]);
  const erl = await firstExecutable("erl", searched);
  if (server === undefined || erl === undefined) return undefined;
  const epmd = await firstExecutable("epmd", [...searched, dirname(await realpath(erl))]);
  return epmd === undefined ? undefined : { server, epmd };
}

/**
 * The RabbitMQ of this machine, installed from Debian's packages when it is missing and this process may do that.
 * What is installed is only the programs: no service of the system is started or left enabled by it.
 * @throws SetupError when it is missing and cannot be installed, with what to do instead.
 */
export async function ensureRabbitmq(progress: (line: string) => void, signal?: AbortSignal): Promise<Installation> {
  const found = await findRabbitmq();
  if (found) return found;
  if ((await firstExecutable("apt-get", ["/usr/bin"])) === undefined) {
    throw new SetupError(`RabbitMQ is not installed, and this system has no apt-get to install it.\n${instruction}`);
  }
  if (process.getuid?.() !== 0) {
    throw new SetupError(`RabbitMQ is not installed, and only root may install it.\n${instruction}`);
  }
  try {
    await withoutServiceStarts(() => installDebianPackage(progress, signal));
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new SetupError(`Installing rabbitmq-server failed.\n${error.message}\n${instruction}`, { cause: error });
  }
  const installed = await findRabbitmq();
  if (installed) return installed;
  throw new SetupError(`The package rabbitmq-server is installed, but its programs are not found.\n${instruction}`);
}

async function installDebianPackage(progress: (line: string) => void, signal?: AbortSignal): Promise<void> {
  const options = {
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    onLine: (line: string) => {
      const step = stepOf(line);
      if (step !== undefined) progress(step);
    },
    ...(signal && { signal }),
  };
  const lock = `DPkg::Lock::Timeout=${lockTimeoutSeconds}`;
  progress("reading Debian's package lists");
  let update: CommandError | undefined;
  try {
    await runCommand("apt-get", ["update", "-o", lock], options);
  } catch (error) {
    // One unreachable third-party source fails the update, yet the package may well be known: the install decides.
    if (!(error instanceof CommandError)) throw error;
    update = error;
  }
  progress("installing rabbitmq-server and Erlang from Debian's packages");
  try {
    await runCommand("apt-get", ["install", "-y", "--no-install-recommends", "-o", lock, "rabbitmq-server"], options);
  } catch (error) {
    if (update && error instanceof CommandError) error.message = `${update.message}\n${error.message}`;
    throw error;
  }
  await keepFromNextBoot();
}

/** What a line of apt-get tells someone who waits, or undefined for the many lines that tell nothing. */
function stepOf(line: string): string | undefined {
  const fetched = /^Need to get (.+) of archives/.exec(line);
  if (fetched) return `fetching ${fetched[1]}`;
  const unpacked = /^Unpacking (erlang-base|rabbitmq-server) /.exec(line);
  if (unpacked) return `unpacking ${unpacked[1]}`;
  return /^Setting up rabbitmq-server /.test(line) ? "setting up rabbitmq-server" : undefined;
}

/** The package enables its service; at the next boot that would take port 5672 from the private node. */
async function keepFromNextBoot(): Promise<void> {
  if ((await firstExecutable("systemctl", ["/usr/bin", "/bin"])) === undefined) return;
  for (const unit of ["rabbitmq-server.service", "epmd.service", "epmd.socket"]) {
    // A unit that this release does not ship is not there to be started either.
    await runCommand("systemctl", ["disable", unit]).catch(() => undefined);
  }
}

/**
 * Runs `install` while Debian's policy forbids packages to start services. A policy that is already there is the
 * machine's own and stays as it is, unless it is what an install of ours that was killed left behind.
 */
export async function withoutServiceStarts(install: () => Promise<void>, policyFile = debianPolicy): Promise<void> {
  const present = await readFile(policyFile, "utf8").catch(() => undefined);
  const ours = present === undefined || present.includes(policyMark);
  if (ours) await writeFile(policyFile, `#!/bin/sh\n${policyMark}\nexit 101\n`, { mode: 0o755 });
  try {
    await install();
  } finally {
    if (ours) await rm(policyFile, { force: true });
  }
}

async function firstExecutable(name: string, directories: string[]): Promise<string | undefined> {
  for (const directory of directories) {
    const file = join(directory, name);
    try {
      await access(file, constants.X_OK);
      return file;
    } catch {
      // Not in this one.
    }
  }
  return undefined;
}
