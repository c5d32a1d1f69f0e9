/** What is written together: as much as one request takes well. */

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
