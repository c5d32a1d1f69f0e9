/**
 * The order of configuration writes in this process. Whether a change is valid depends on all layers of the components
 * it concerns, so shared layers and schemas are written one at a time; layers of single components, which meet in no
 * component, side by side.
 */
export class WriteOrder {
  /** Ends when the last write of shared things that was asked for has ended. */
  #exclusive: Promise<unknown> = Promise.resolve();
  /** The last write of each component's layer that is under way. */
  readonly #single = new Map<string, Promise<unknown>>();

  /** Runs `write` in its turn. @param layer the layer's name, or anything else for what concerns many components. */
  async run<Result>(layer: string, write: () => Promise<Result>): Promise<Result> {
    const turn = layer.startsWith("component:") ? this.#single : undefined;
    const before = turn === undefined ? this.idle() : Promise.all([this.#exclusive, turn.get(layer)]);
    const done = before.then(write);
    const settled = done.then(
      () => undefined,
      () => undefined,
    );
    if (turn === undefined) {
      this.#exclusive = settled;
    } else {
      turn.set(layer, settled);
      void settled.then(() => {
        if (turn.get(layer) === settled) turn.delete(layer);
      });
    }
    return done;
  }

  /** Resolves when all writes asked for so far have ended. */
  async idle(): Promise<void> {
    await Promise.all([this.#exclusive, ...this.#single.values()]);
  }
}
