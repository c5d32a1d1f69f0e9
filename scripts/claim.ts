import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { endGroup } from "./process-group.ts";
import { identifyProcess, isRunning, type ProcessIdentity } from "./process-identity.ts";
import { SetupError } from "./setup-error.ts";

/** The right of this process to run programs on a directory, written down in its `run.json`. */
export interface Claim {
  /** Writes down a process that works on the directory, in the place of an earlier one of that name. */
  note(name: string, identity: ProcessIdentity): Promise<void>;
  /** Gives the directory free. Call it once all noted processes have ended. */
  release(): Promise<void>;
}

export interface ClaimOptions {
  /** What the directory holds, for messages. */
  what: string;
  progress?: (line: string) => void;
  stopTimeoutMs: number;
}

interface RunRecord {
  owner: ProcessIdentity;
  processes: Record<string, ProcessIdentity>;
}

/**
 * Claims `directory` for this process and ends what an earlier owner left running when it was killed: two programs on
 * the same files would destroy them.
 * @throws SetupError when another live process has it.
 */
export async function claimDirectory(directory: string, options: ClaimOptions): Promise<Claim> {
  await mkdir(directory, { recursive: true });
  const file = join(directory, "run.json");
  const earlier = await readRecord(file);
  if (earlier !== undefined && earlier.owner.pid !== process.pid && (await isRunning(earlier.owner))) {
    throw new SetupError(
      `${options.what} in ${directory} is in use by process ${earlier.owner.pid}. Stop that one first, or choose ` +
        "another data directory with MUSTER_DATA_DIR (and other ports with MUSTER_HTTP_PORT, MUSTER_COUCHDB_PORT and " +
        "MUSTER_AMQP_PORT).",
    );
  }
  for (const [name, identity] of Object.entries(earlier?.processes ?? {}).toReversed()) {
    if (!(await isRunning(identity))) continue;
    options.progress?.(`stopping ${name}, which an earlier start left behind (process ${identity.pid})`);
    await endGroup(identity, options.stopTimeoutMs);
  }
  const owner = await identifyProcess(process.pid);
  if (owner === undefined) throw new Error("this process is not found among the running ones");
  const record: RunRecord = { owner, processes: {} };
  await writeRecord(file, record);
  return {
    note: async (name, identity) => {
      record.processes[name] = identity;
      await writeRecord(file, record);
    },
    release: async () => await rm(file, { force: true }),
  };
}

async function readRecord(file: string): Promise<RunRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(file, "utf8")) as Partial<RunRecord>;
    return record.owner && record.processes ? (record as RunRecord) : undefined;
  } catch {
    // No record, or one that was cut off by a crash of the machine, after which nothing runs any more.
    return undefined;
  }
}

async function writeRecord(file: string, record: RunRecord): Promise<void> {
  await writeFile(`${file}.new`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
  await rename(`${file}.new`, file);
}
