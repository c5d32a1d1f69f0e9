/**
 * Who descends from whom among the revisions of one document. CouchDB knows a tree; a merge has several parents, so the
 * revisions that were merged say so, and this is the graph of both. Pure.
 */
import { compareRevisions } from "../../config-db/revision.ts";
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

export class Ancestry {
  readonly #parents = new Map<string, Set<string>>();

  constructor(leaves: Leaf[]) {
    for (const { path, rev, doc } of leaves) {
      for (const [index, child] of path.entries()) this.#add(child, path[index + 1]);
      if (isMergeMark(doc)) this.#add(doc.mergedInto, path[1]);
      for (const merged of (doc as { merged?: { rev: string }[] }).merged ?? []) this.#add(rev, merged.rev);
    }
  }

  /** `rev` and all it was made from. */
  ancestors(revs: Iterable<string>): Set<string> {
    const found = new Set(revs);
    // A set's iteration goes on to what is added meanwhile.
    for (const rev of found) for (const parent of this.#parents.get(rev) ?? []) found.add(parent);
    return found;
  }

  /**
   * The newest revisions that both sides were made from, the greatest first: more than one where sites merged crosswise,
   * none where nothing is in common.
   */
  mergeBases(one: Iterable<string>, other: string): string[] {
    const mine = this.ancestors(one);
    const common = [...this.ancestors([other])].filter((rev) => mine.has(rev));
    const bases: string[] = [];
    // A revision's ancestors have lower generations than it, so they come later here.
    for (const rev of common.sort(compareRevisions).reverse()) {
      if (!this.ancestors(bases).has(rev)) bases.push(rev);
    }
    return bases;
  }

  #add(child: string, parent: string | undefined): void {
    const parents = this.#parents.get(child) ?? new Set();
    if (parent !== undefined) parents.add(parent);
    this.#parents.set(child, parents);
  }
}
