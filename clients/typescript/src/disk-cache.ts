/** The last known configuration and the way to the broker, on disk, so that a component starts when nothing else is up. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Settings } from "../../../config-db/generated/types.ts";
import type { Logger } from "./logger.ts";
import type { AmqpAddress } from "./membership.ts";

export interface Remembered {
  id: string;
  etag: string;
  settings: Settings;
  /** When a coordinator last confirmed these settings, on this machine's clock. */
  confirmedAt: string;
  amqp?: AmqpAddress | undefined;
}

export class DiskCache {
  readonly #file: string | undefined;
  readonly #logger: Logger;
  #last: Promise<void> = Promise.resolve();

  /** Without a file it remembers nothing. */
  constructor(file: string | undefined, logger: Logger) {
    this.#file = file;
    this.#logger = logger;
  }

  /** @returns undefined when there is none, or none that can be read: a broken file must not stop a component. */
  async read(id: string): Promise<Remembered | undefined> {
    if (this.#file === undefined) return undefined;
    try {
      const found = JSON.parse(await readFile(this.#file, "utf8")) as Remembered;
      return found.id === id && isWhole(found) ? found : undefined;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        this.#logger.warn({ error, file: this.#file }, "the last known configuration cannot be read");
      }
      return undefined;
    }
  }

  /**
   * Writes beside the file and renames: whoever reads it sees the old or the new one, never a part. Writes follow one
   * another. Never rejects: a full disk is logged, and costs only what would be known after a restart.
   */
  write(remembered: Remembered): Promise<void> {
    const file = this.#file;
    if (file === undefined) return Promise.resolve();
    this.#last = this.#last.then(async () => {
      const beside = `${file}.${randomBytes(4).toString("hex")}`;
      try {
        await mkdir(dirname(file), { recursive: true, mode: 0o700 });
        await writeFile(beside, JSON.stringify(remembered), { mode: 0o600, flush: true });
        await rename(beside, file);
      } catch (error) {
        await rm(beside, { force: true }).catch(() => undefined);
        this.#logger.warn({ error, file }, "the configuration cannot be kept on disk");
      }
    });
    return this.#last;
  }
}

/** A time in the future counts: the clock may have been set back, and a machine without one of its own starts in the past. */
function isWhole({ etag, settings, confirmedAt }: Remembered): boolean {
  const isObject = typeof settings === "object" && settings !== null && !Array.isArray(settings);
  return typeof etag === "string" && isObject && isTime(confirmedAt);
}

/** `Date.parse` alone takes "5" for a day in 2001. */
function isTime(text: unknown): boolean {
  return typeof text === "string" && /^\d{4}-\d\d-\d\dT/.test(text) && !Number.isNaN(Date.parse(text));
}
