/** What an option `--file` names: a file, or standard input for `-`. */
import { readFile } from "node:fs/promises";
import { MusterError } from "../../config-db/errors.ts";
import type { Terminal } from "./terminal.ts";

/** @throws MusterError `invalid-request` when it cannot be read. */
export async function readBytes({ stdin }: Pick<Terminal, "stdin">, file: string): Promise<Buffer> {
  try {
    if (file !== "-") return await readFile(file);
    const chunks: Buffer[] = [];
    for await (const chunk of stdin) chunks.push(Buffer.from(chunk as Buffer | string));
    return Buffer.concat(chunks);
  } catch (error) {
    throw new MusterError("invalid-request", `cannot read ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** @throws MusterError `invalid-request` when it cannot be read, or is not UTF-8: a guess would change what it says. */
export async function readText(terminal: Pick<Terminal, "stdin">, file: string): Promise<string> {
  const bytes = await readBytes(terminal, file);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new MusterError("invalid-request", `${file} is not text in UTF-8`, { cause: error });
  }
}
