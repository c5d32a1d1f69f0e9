/** What history tells of the revisions before and between the leaves of a layer: a merge needs what both sides had. */
import type { HistoryDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { generationOf } from "../../config-db/revision.ts";
import type { Database, Document } from "../../config-db/store.ts";
import type { Leaf, Parents } from "./ancestry.ts";
import { type IsUsable, neededHistory, type PastRevision, type VersionedDocument } from "./resolve.ts";

/** Old revisions asked for one by one: the common ancestors are few. */
const oldRevisionsMax = 20;

/** Revisions whose parents are asked for one by one: so many versions more than the store's tree has may a site have missed. */
const lineageMax = 10_000;

export interface PastOfLayer {
  contents: Map<string, PastRevision>;
  parents: Parents;
}

export class Past {
  readonly #database: Database<Document>;
  readonly #isUsable: IsUsable;

  constructor(database: Database<Document>, isUsable: IsUsable) {
    this.#database = database;
    this.#isUsable = isUsable;
  }

  /**
   * What `resolve` needs of the document `id`.
   * @returns undefined where that is not all here: history comes by the same replication as the leaves, perhaps later
   */
  async read(id: string, leaves: Leaf<VersionedDocument>[]): Promise<PastOfLayer | undefined> {
    const past = await this.#read(id, leaves);
    return past.missing.length === 0 && !past.isAwaited ? past : undefined;
  }

  /** The same, as far as it is here. In place of what history never had, being none of its kind, stands what was before it. */
  async readWhatIsHere(id: string, leaves: Leaf<VersionedDocument>[]): Promise<PastOfLayer> {
    const past = await this.#read(id, leaves);
    await this.#addEarlier(id, past.missing, leaves, past.contents);
    return past;
  }

  async #read(
    id: string,
    leaves: Leaf<VersionedDocument>[],
  ): Promise<PastOfLayer & { missing: string[]; isAwaited: boolean }> {
    const { parents, isAwaited } = await this.#lineage(id, leaves);
    const needed = neededHistory(leaves, this.#isUsable, parents).contents;
    return { ...(await this.#contents(id, needed)), parents, isAwaited };
  }

  /**
   * What revisions were made from that the store's own tree goes not back to. History says that of each, also of those that
   * it has let go of.
   */
  async #lineage(id: string, leaves: Leaf<VersionedDocument>[]): Promise<{ parents: Parents; isAwaited: boolean }> {
    const inTree = new Set(leaves.flatMap(({ path }) => path));
    const parents = new Map<string, string[]>();
    let isAwaited = false;
    for (;;) {
      const needed = neededHistory(leaves, this.#isUsable, parents).parents;
      const open = needed.filter((rev) => !parents.has(rev));
      if (open.length === 0 || parents.size >= lineageMax) return { parents, isAwaited };
      // Iterated over as it grows.
      for (const rev of open) {
        if (parents.has(rev) || parents.size >= lineageMax) continue;
        const kept = await this.#keptLeaves(id, rev);
        isAwaited ||= kept.length === 0;
        const before = kept.map((doc) => parentsIn(doc, rev)).find((revs) => revs.length > 0) ?? [];
        parents.set(rev, before);
        open.push(...before.filter((one) => generationOf(one) > 1 && !inTree.has(one)));
      }
    }
  }

  /**
   * From history. What that never had is taken from the store's own old revisions, as long as it has not compacted them; what
   * it has let go of is not: one site would merge by what another no longer has.
   */
  async #contents(id: string, revs: string[]): Promise<{ contents: Map<string, PastRevision>; missing: string[] }> {
    const contents = new Map<string, PastRevision>((await this.#kept(id, revs)).map((doc) => [doc.rev, doc]));
    const missing: string[] = [];
    for (const [index, rev] of revs.filter((rev) => !contents.has(rev)).entries()) {
      const kept = index < oldRevisionsMax ? await this.#keptLeaves(id, rev) : undefined;
      // A live one has come in this moment.
      if (kept === undefined || kept.some(({ _deleted }) => _deleted !== true)) missing.push(rev);
      else if (kept.length === 0) {
        const past = (await this.#database.get(id, { rev })) as VersionedDocument | undefined;
        if (past?.settings === undefined || !this.#isUsable(past)) missing.push(rev);
        else contents.set(rev, { ...past, rev, settings: past.settings, deleted: past._deleted === true });
      }
    }
    return { contents, missing };
  }

  async #addEarlier(
    id: string,
    revs: string[],
    leaves: Leaf<VersionedDocument>[],
    found: Map<string, PastRevision>,
  ): Promise<void> {
    for (const rev of revs.slice(0, oldRevisionsMax)) {
      const path = leaves.map((leaf) => leaf.path).find((revisions) => revisions.includes(rev)) ?? [];
      const earlier = path.slice(path.indexOf(rev) + 1).slice(0, oldRevisionsMax);
      const kept = new Map((await this.#kept(id, earlier)).map((doc) => [doc.rev, doc]));
      for (const past of earlier) {
        const doc = kept.get(past);
        if (doc !== undefined) found.set(rev, doc);
        // What was a version, and was let go of, hides those before it.
        if (doc !== undefined || (await this.#keptLeaves(id, past)).length > 0) break;
      }
    }
  }

  async #kept(id: string, revs: string[]): Promise<HistoryDocument[]> {
    const docs = await this.#database.getMany<HistoryDocument>(revs.map((rev) => historyId(id, rev)));
    return docs.filter(this.#isUsable);
  }

  /** The history document of a revision, or its tombstone; nothing where the revision never was in history here. */
  async #keptLeaves(id: string, rev: string): Promise<Document[]> {
    return this.#database.leaves(historyId(id, rev));
  }
}

function historyId(id: string, rev: string): string {
  return documentId.history(id.slice("layer:".length) as LayerName, rev);
}

/**
 * What a revision was made from, as its history document or the tombstone of that says; nothing where it does not, or names
 * another generation than the one before: who wrote straight to the store may have left in it what the version before it said.
 */
function parentsIn({ parent, merged }: Document & { parent?: unknown; merged?: unknown }, rev: string): string[] {
  const [inTree] = revsIn([parent]);
  if (inTree === undefined || generationOf(inTree) !== generationOf(rev) - 1) return [];
  const others = revsIn(Array.isArray(merged) ? merged : []);
  return [inTree, ...others.filter((other) => generationOf(other) < generationOf(rev))];
}

/** Of references as documents have them, whoever wrote these. */
function revsIn(references: unknown[]): string[] {
  return references.flatMap((reference) =>
    typeof reference === "object" && reference !== null && "rev" in reference && typeof reference.rev === "string"
      ? [reference.rev]
      : [],
  );
}
