/** Ids in order, so that a page can start behind any id, there or not. Insertion moves memory, which is cheap at 100,000. */
export class SortedIds {
  readonly #ids: string[] = [];

  get size(): number {
    return this.#ids.length;
  }

  add(id: string): void {
    const place = this.#placeOf(id);
    if (this.#ids[place] !== id) this.#ids.splice(place, 0, id);
  }

  delete(id: string): void {
    const place = this.#placeOf(id);
    if (this.#ids[place] === id) this.#ids.splice(place, 1);
  }

  /** The ids behind `id`, in order; all of them without one. */
  *after(id?: string): IterableIterator<string> {
    let place = id === undefined ? 0 : this.#placeOf(id);
    if (this.#ids[place] === id) place += 1;
    for (; place < this.#ids.length; place += 1) yield this.#ids[place] as string;
  }

  #placeOf(id: string): number {
    let [low, high] = [0, this.#ids.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ids[middle] as string) < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
