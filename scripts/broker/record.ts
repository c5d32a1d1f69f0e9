import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { findFreePort, isPortFree } from "../ports.ts";
import { SetupError } from "../setup-error.ts";
import type { NodeSettings } from "./settings.ts";

/** `broker.json` in a node's directory: what has to stay the same from one start to the next. */
export interface BrokerRecord {
  nodeName: string;
  user: string;
  password: string;
  managementPort: number;
  distributionPort: number;
  epmdPort: number;
}

const fileIn = (directory: string) => join(directory, "broker.json");

/** Reads the record of `directory`, or makes one with a fresh password. The directory is created for its owner only. */
export async function openRecord(directory: string, nodeName: string): Promise<BrokerRecord> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await chmod(directory, 0o700);
  const text = await readFile(fileIn(directory), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (text !== undefined) return parseRecord(text, fileIn(directory));
  return {
    nodeName,
    user: "muster",
    password: randomBytes(24).toString("base64url"),
    managementPort: await findFreePort(),
    distributionPort: await findFreePort(),
    epmdPort: await findFreePort(),
  };
}

function parseRecord(text: string, file: string): BrokerRecord {
  try {
    const record = JSON.parse(text) as BrokerRecord;
    if (typeof record.password === "string" && typeof record.nodeName === "string") return record;
  } catch {
    // Reported below like a record that lacks its fields.
  }
  throw new SetupError(
    `${file} is not a record of a broker. It holds the broker's password: restore it, or remove the directory ` +
      "around it and lose the messages in it.",
  );
}

/** Replaces the record in one step, so that a crash leaves either the old or the new one. */
export async function writeRecord(directory: string, record: BrokerRecord): Promise<void> {
  const draft = `${fileIn(directory)}.new`;
  await writeFile(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  await rename(draft, fileIn(directory));
}

/** The record with another port in place of each that somebody else has taken meanwhile. */
export async function withFreePorts(record: BrokerRecord): Promise<BrokerRecord> {
  const keep = async (port: number) => ((await isPortFree(port)) ? port : await findFreePort());
  return {
    ...record,
    managementPort: await keep(record.managementPort),
    distributionPort: await keep(record.distributionPort),
    epmdPort: await keep(record.epmdPort),
  };
}

export function settingsOf(record: BrokerRecord, directory: string, amqpPort: number): NodeSettings {
  const { nodeName, user, password, managementPort, distributionPort, epmdPort } = record;
  return { directory, nodeName, user, password, amqpPort, managementPort, distributionPort, epmdPort };
}
