/** What is written together: as much as one request takes well, and nobody pays for another's document. */
import { isMusterError, type MusterError } from "../config-db/errors.ts";

export interface BatchLimits {
  countMax: number;
  bytesMax: number;
}

/** How many of these, from the first on, go together: up to a count, and up to a size unless the first alone is larger. */
export function batchLength<Item>(
  items: readonly Item[],
  sizeBytesOf: (item: Item) => number,
  { countMax, bytesMax }: BatchLimits,
): number {
  let sizeBytes = 0;
  const end = items.findIndex((item, index) => {
    sizeBytes += sizeBytesOf(item);
    return index > 0 && (index >= countMax || sizeBytes > bytesMax);
  });
  return end < 0 ? items.length : end;
}

/**
 * Writes a batch, and one that the store refuses as a whole in halves, one after the other, down to the guilty.
 * @param refused is told of each of these.
 * @throws what `write` or `refused` throws that is no refusal: what comes after it was not tried.
 */
export async function writeInHalves<Item>(
  batch: Item[],
  write: (part: Item[]) => Promise<void>,
  refused: (item: Item, why: MusterError) => Promise<void> | void,
): Promise<void> {
  try {
    await write(batch);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const half = Math.ceil(batch.length / 2);
    if (half < batch.length)
      for (const part of [batch.slice(0, half), batch.slice(half)]) await writeInHalves(part, write, refused);
    else for (const item of batch) await refused(item, error);
  }
}

/** Whether the store will not take it however often it is tried. */
export function isRefusal(error: unknown): error is MusterError {
  return isMusterError(error, "too-large") || isMusterError(error, "refused");
}
