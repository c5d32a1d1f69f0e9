/**
 * Finds the documents of a database that sites changed at once and has each decided, one at a time. Works at the site's
 * leader; any site's may be first, since all decide the same.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { pathOf } from "../../config-db/revision.ts";
import type { Change, Database, Document, LeafDocument } from "../../config-db/store.ts";
import type { Leaf } from "./ancestry.ts";

export interface ResolverOptions {
  database: Database<Document>;
  /** Which documents are looked at, by id. */
  concerns(id: string): boolean;
  /** Decides one document. Asked again later when it throws, or answers "later". */
  decide(id: string, leaves: Leaf[], attempt: number): Promise<"done" | "later">;
  leads(): boolean;
  logger: Logger;
}

/** Between two tries at a document, the store being away or history not here yet; and between two looks at who leads. */
const retryMs = 250;

export class Resolver {
  readonly #options: ResolverOptions;
  /** Documents with several leaves, and how often they were tried. */
  readonly #open = new Map<string, number>();
  readonly #abort = new AbortController();
  #working: Promise<void> | undefined;
  #started = false;

  constructor(options: ResolverOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#started = true;
    this.#wake();
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#working;
  }

  /** Documents that wait for a decision. */
  get size(): number {
    return this.#open.size;
  }

  apply(changes: Change[]): void {
    for (const { id, leaves = [] } of changes) {
      if (leaves.length < 2 || !this.#options.concerns(id)) continue;
      // The newest goes to the end: a document that is written all the time must not keep the others waiting.
      this.#open.delete(id);
      this.#open.set(id, 0);
    }
    this.#wake();
  }

  #wake(): void {
    if (!this.#started || this.#open.size === 0 || this.#abort.signal.aborted) return;
    this.#working ??= this.#work().finally(() => {
      this.#working = undefined;
      this.#wake();
    });
  }

  async #work(): Promise<void> {
    const { signal } = this.#abort;
    while (this.#open.size > 0 && !signal.aborted) {
      let later = !this.#options.leads();
      if (!later) for (const id of [...this.#open.keys()]) later = !(await this.#decide(id)) || later;
      if (later) await delay(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #decide(id: string): Promise<boolean> {
    if (this.#abort.signal.aborted) return true;
    const attempt = this.#open.get(id) ?? 0;
    this.#open.set(id, attempt + 1);
    try {
      const leaves = (await this.#options.database.branches(id)).map(leafOf);
      // A change that comes meanwhile asks anew, by setting the count back.
      if ((await this.#options.decide(id, leaves, attempt)) === "later") return false;
      if (this.#open.get(id) === attempt + 1) this.#open.delete(id);
      return true;
    } catch (error) {
      this.#options.logger.warn({ id, reason: (error as Error).message }, "a conflict cannot be resolved yet");
      return false;
    }
  }
}

export function leafOf<Doc extends Document>({ _revisions, ...doc }: LeafDocument<Doc>): Leaf<Doc> {
  return { rev: doc._rev, path: pathOf({ _revisions }), doc: doc as unknown as Leaf<Doc>["doc"] };
}
