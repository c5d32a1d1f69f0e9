/**
 * Who descends from whom among the revisions of one document. CouchDB knows a tree; a merge has several parents, so the
 * revisions that were merged say so, and this is the graph of both. A store keeps so many generations of a tree only: what
 * came before them history tells. Pure.
 */
import { compareRevisions, generationOf } from "../../config-db/revision.ts";
import type { Document } from "../../config-db/store.ts";

/** A leaf revision with the way to its root, as `open_revs=all&revs=true` gives it. */
export interface Leaf<Doc extends Document = Document> {
  rev: string;
  /** This revision first, the oldest known last. */
  path: string[];
  doc: Doc & { _rev: string };
}

/** A tombstone that ends a branch whose content went into revision `mergedInto`. It is bookkeeping, not a deletion. */
export interface MergeMark {
  mergedInto: string;
}

export function isMergeMark(doc: Document): doc is Document & MergeMark {
  return doc._deleted === true && typeof (doc as Partial<MergeMark>).mergedInto === "string";
}

/** By revision what it was made from; nothing where that cannot be told. */
export type Parents = ReadonlyMap<string, readonly string[]>;

/** What two sides have in common. */
export interface MergeBases {
  /** The newest revisions that both were made from, the greatest first: more than one where sites merged crosswise. */
  revs: string[];
  /** Where this is not empty newer ones may lie before these revisions, of which nobody said what they were made from. */
  hiddenBy: string[];
}

export class Ancestry {
  readonly #parents = new Map<string, Set<string>>();
  /** The revisions whose parent in the tree is known. */
  readonly #rooted = new Set<string>();

  /** @param earlier what came before the oldest revisions that the store knows */
  constructor(leaves: Leaf[], earlier: Parents = new Map()) {
    for (const { path, rev, doc } of leaves) {
      for (const [index, child] of path.entries()) {
        this.#add(child, path[index + 1]);
        if (index + 1 < path.length) this.#rooted.add(child);
      }
      if (isMergeMark(doc)) this.#add(doc.mergedInto, path[1]);
      for (const merged of (doc as { merged?: { rev: string }[] }).merged ?? []) this.#add(rev, merged.rev);
    }
    for (const [child, parents] of earlier) {
      for (const parent of parents) this.#add(child, parent);
      if (parents.length > 0) this.#rooted.add(child);
    }
  }

  /** `rev` and all it was made from. */
  ancestors(revs: Iterable<string>): Set<string> {
    const found = new Set(revs);
    // A set's iteration goes on to what is added meanwhile.
    for (const rev of found) for (const parent of this.#parents.get(rev) ?? []) found.add(parent);
    return found;
  }

  mergeBases(one: Iterable<string>, other: string): MergeBases {
    const [mine, theirs] = [this.ancestors(one), this.ancestors([other])];
    const common = [...theirs].filter((rev) => mine.has(rev));
    const revs: string[] = [];
    // A revision's ancestors have lower generations than it, so they come later here.
    for (const rev of common.sort(compareRevisions).reverse()) {
      if (!this.ancestors(revs).has(rev)) revs.push(rev);
    }
    const shared = this.ancestors(revs);
    const [ours, others] = [mine, theirs].map((side) => [...side].filter((rev) => !shared.has(rev))) as [
      string[],
      string[],
    ];
    return { revs, hiddenBy: [...this.#hiding(ours, others), ...this.#hiding(others, ours)] };
  }

  /** Those of `side` before which there may be something of `other`: of a lower generation, or as little known itself. */
  #hiding(side: string[], other: string[]): string[] {
    const isOpen = (rev: string) => generationOf(rev) > 1 && !this.#rooted.has(rev);
    return side
      .filter(isOpen)
      .filter((end) => other.some((rev) => generationOf(rev) < generationOf(end) || isOpen(rev)));
  }

  #add(child: string, parent: string | undefined): void {
    const parents = this.#parents.get(child) ?? new Set();
    if (parent !== undefined) parents.add(parent);
    this.#parents.set(child, parents);
  }
}
