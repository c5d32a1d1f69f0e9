import { appendFileSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";

/** Two files of this size at most: enough for days of a quiet site, and a bound for a noisy one. */
export const logFileBytes = 10 * 1024 * 1024;

/**
 * A log file that starts over when it is full; the full one stays beside it as `<file>.1`. Lines are written before the
 * call returns, so that the last words of a crash are in it.
 */
export class LogFile {
  private readonly file: string;
  private readonly maxBytes: number;
  private sizeBytes: number | undefined;

  constructor(file: string, maxBytes = logFileBytes) {
    this.file = file;
    this.maxBytes = maxBytes;
  }

  write(line: string): void {
    this.sizeBytes ??= this.open();
    const bytes = Buffer.byteLength(line) + 1;
    if (this.sizeBytes > 0 && this.sizeBytes + bytes > this.maxBytes) {
      renameSync(this.file, `${this.file}.1`);
      this.sizeBytes = 0;
    }
    appendFileSync(this.file, `${line}\n`, { mode: 0o600 });
    this.sizeBytes += bytes;
  }

  private open(): number {
    mkdirSync(dirname(this.file), { recursive: true });
    return statSync(this.file, { throwIfNoEntry: false })?.size ?? 0;
  }
}
