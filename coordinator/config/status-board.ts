/** The live summary of who has applied which settings. */
import type { Components } from "./effective-settings.ts";
import { etagOf } from "./etag.ts";
import { componentStatus, type StatusSummary, summarize } from "./status.ts";

/** A thousand components that report at once must not make a thousand summaries. */
const quietMs = 50;

export class StatusBoard {
  readonly #components: Components;
  readonly #wanted: (id: string) => string;
  readonly #watchers = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;

  /** @param wanted the etag of the settings that a component should have. */
  constructor(components: Components, wanted: (id: string) => string) {
    this.#components = components;
    this.#wanted = wanted;
  }

  /** What the components that are up made of their settings. */
  summary({ type }: { type?: string | undefined } = {}): StatusSummary {
    const statuses = [];
    for (const component of this.#components.all()) {
      if (component.state !== "up" || (type !== undefined && component.type !== type)) continue;
      statuses.push(componentStatus(component, this.#wanted(component.id)));
    }
    return summarize(statuses);
  }

  read(filter: { type?: string | undefined }): { etag: string; body: StatusSummary } {
    const body = this.summary(filter);
    return { etag: etagOf(body), body };
  }

  /** `changed` is called soon after a report, a registration or a change of settings, not once for each. */
  subscribe(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /** To be called when a registration, a report or effective settings changed. */
  changed(): void {
    if (this.#watchers.size === 0 || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      for (const changed of [...this.#watchers]) changed();
    }, quietMs);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#watchers.clear();
  }
}
