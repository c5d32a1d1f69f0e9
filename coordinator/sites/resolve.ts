/**
 * What becomes of a document that several sites changed at once. A function of the set of leaf revisions and of what
 * the revisions between them were: every site that has these writes the same revisions, whichever comes first.
 *
 * - Settings and the list of attached content merge three-way from the common ancestor, member by member.
 * - Where two sides changed the same place, the higher (`version`, `site`, `rev`) stands, and the place is told.
 * - A deletion against an edit: the edit stands, and the deletion is told. A configuration that is gone breaks
 *   components at once; one that is there too long does not.
 * - Records that are one thing (schemas, secrets, candidates) do not merge: the higher one stands, the other is told.
 *
 * All branches but one end in a tombstone that names the revision they went into (`mergedInto`): a later merge knows by
 * it what both sides have in common already.
 */
import { limits } from "../../config-db/limits.ts";
import { type Fixed, withFixedRevision } from "../../config-db/revision.ts";
import type { Document } from "../../config-db/store.ts";
import { Ancestry, compareRevisions, generationOf, isMergeMark, type Leaf } from "./ancestry.ts";
import { type FieldConflict, isSame, mergeThreeWay, valueAt } from "./three-way.ts";

/** A document of muster-config that people change: a layer, a schema … Only layers have `settings` and `content`. */
export interface VersionedDocument extends Document {
  kind: string;
  schemaVersion: number;
  version: number;
  changedBy: string;
  changedAt: string;
  site: string;
  settings?: Record<string, unknown>;
  content?: Record<string, unknown>;
  [field: string]: unknown;
}

export type ConflictPart = "settings" | "content" | "document";

/** One side of a conflict. `value` is absent where that side has nothing there. */
export interface Candidate {
  rev: string;
  version: number;
  site: string;
  changedBy: string;
  changedAt: string;
  value?: unknown;
}

/** A place that several sides changed, each in its own way. The first candidate is the one that stands. */
export interface FoundConflict {
  part: ConflictPart;
  /** Below `settings` or `content`; empty for a whole document. */
  pointer: string;
  /** What was there before; absent where nothing was. */
  base?: { value: unknown };
  candidates: Candidate[];
}

export interface Resolution {
  /** To be written with `newEdits: false`; the merged revision first, where one is needed. */
  writes: Fixed<VersionedDocument>[];
  /** The revision that stands afterwards. */
  result: string;
  conflicts: FoundConflict[];
}

/** What an earlier revision was, from history. */
export interface PastRevision {
  settings: Record<string, unknown>;
  content?: Record<string, unknown>;
  deleted?: boolean;
  merged?: unknown[];
}

type VersionedLeaf = Leaf<VersionedDocument>;

/** The leaves that still want a decision, the one that stands highest first. */
function openLeaves(leaves: VersionedLeaf[]): VersionedLeaf[] {
  const open = leaves.filter(({ doc }) => !isMergeMark(doc)).map(signed);
  return open.sort((a, b) => -compareStanding(a, b));
}

/** Who deletes with CouchDB's own DELETE signs nothing: the guard lets such a tombstone pass, and here it stands lowest. */
function signed({ doc, ...leaf }: VersionedLeaf): VersionedLeaf {
  const unknown = { version: 1, changedBy: "unknown", changedAt: new Date(0).toISOString(), site: "unknown" };
  return { ...leaf, doc: { ...unknown, ...doc } };
}

/** (`version`, `site`, `rev`), as design §3 orders them. */
function compareStanding(a: VersionedLeaf, b: VersionedLeaf): number {
  const [siteA, siteB] = [a.doc.site, b.doc.site];
  return a.doc.version - b.doc.version || (siteA < siteB ? -1 : siteA > siteB ? 1 : compareRevisions(a.rev, b.rev));
}

/** True when these leaves want a resolution: two open ones, of which not all are deletions. */
export function isOpen(leaves: VersionedLeaf[]): boolean {
  const open = openLeaves(leaves);
  return open.length > 1 && open.some(({ doc }) => doc._deleted !== true);
}

/** The revisions whose content `resolve` asks history for. What is not found is taken as empty. */
export function neededHistory(leaves: VersionedLeaf[]): string[] {
  const open = openLeaves(leaves);
  if (open[0]?.doc.kind !== "layer") return [];
  const ancestry = new Ancestry(leaves);
  const needed = new Set<string>();
  const live = open.filter(({ doc }) => doc._deleted !== true);
  // Which revisions a merge asks for does not depend on what they hold.
  const ask = (rev: string) => {
    needed.add(rev);
    return undefined;
  };
  mergeRevisions(
    live.map(({ rev }) => rev),
    ancestry,
    ask,
  );
  for (const deletion of open.filter(({ doc }) => doc._deleted === true)) {
    for (const leaf of live) for (const rev of pathSince(deletion, leaf, ancestry)) needed.add(rev);
  }
  for (const { rev } of open) needed.delete(rev);
  return [...needed];
}

/**
 * @param history the revisions that `neededHistory` named, as far as they are known
 * @returns undefined where nothing is to be decided
 */
export function resolve(leaves: VersionedLeaf[], history: ReadonlyMap<string, PastRevision>): Resolution | undefined {
  if (!isOpen(leaves)) return undefined;
  const open = openLeaves(leaves);
  const ancestry = new Ancestry(leaves);
  const live = open.filter(({ doc }) => doc._deleted !== true);
  const merged = live[0]?.doc.kind === "layer" ? mergeLayers(live, ancestry, history) : pickHighest(live);
  const deletions = open.filter((leaf) => leaf.doc._deleted === true && !isAgreed(leaf, live, ancestry, history));
  return {
    ...settle(open, merged.content),
    conflicts: [...merged.conflicts, ...deletionConflict(deletions, live)],
  };
}

type Content = Pick<VersionedDocument, "settings" | "content">;

function mergeLayers(
  live: VersionedLeaf[],
  ancestry: Ancestry,
  history: ReadonlyMap<string, PastRevision>,
): { content: Content; conflicts: FoundConflict[] } {
  const conflicts: FoundConflict[] = [];
  const contents = new Map(live.map(({ rev, doc }): [string, Content] => [rev, contentOf(doc)]));
  const content = mergeRevisions(
    live.map(({ rev }) => rev),
    ancestry,
    (rev) => contents.get(rev) ?? history.get(rev),
    (part, { pointer, base, kept, lost }, index) => {
      // The highest of those who say what stands: it is whom the operator should ask.
      const author = live.find(({ doc }) => isSame(valueAt(doc[part], pointer), kept)) ?? (live[0] as VersionedLeaf);
      addConflict(
        conflicts,
        part,
        pointer,
        base,
        candidateOf(author, kept),
        candidateOf(live[index] as VersionedLeaf, lost),
      );
    },
  );
  // Two halves that each fit can make a whole that does not: then one stands, and the other waits for an operator.
  if (Buffer.byteLength(JSON.stringify(content.settings ?? {})) > limits.bodyBytes) {
    return { content: contentOf((live[0] as VersionedLeaf).doc), conflicts: pickHighest(live).conflicts };
  }
  return { content, conflicts };
}

/**
 * Revisions made one, the first standing highest. Each is merged from what it has in common with those before; where that
 * is several revisions, because sites merged crosswise, these are merged first, as git's recursive strategy does.
 */
function mergeRevisions(
  revs: string[],
  ancestry: Ancestry,
  known: (rev: string) => Content | undefined,
  told: (part: "settings" | "content", conflict: FieldConflict, index: number) => void = () => {},
): Content {
  const [first, ...others] = revs;
  let content: Content = (first === undefined ? undefined : known(first)) ?? {};
  for (const [index, rev] of others.entries()) {
    const base = mergeRevisions(ancestry.mergeBases(revs.slice(0, index + 1), rev), ancestry, known);
    const other = known(rev) ?? {};
    const next: Content = {};
    for (const part of ["settings", "content"] as const) {
      const { merged, conflicts } = mergeThreeWay(base[part], content[part], other[part]);
      if (merged !== undefined) next[part] = merged as Record<string, unknown>;
      for (const conflict of conflicts) told(part, conflict, index + 1);
    }
    content = next;
  }
  return content;
}

/** One entry per place: a third side joins the candidates of the first two. */
function addConflict(
  conflicts: FoundConflict[],
  part: ConflictPart,
  pointer: string,
  was: unknown,
  kept: Candidate,
  lost: Candidate,
): void {
  const known = conflicts.find((conflict) => conflict.part === part && conflict.pointer === pointer);
  if (known === undefined) {
    const base = was === undefined ? {} : { base: { value: was } };
    conflicts.push({ part, pointer, ...base, candidates: [kept, lost] });
  } else if (!known.candidates.some(({ value }) => isSame(value, lost.value))) {
    known.candidates.push(lost);
  }
}

/** Fields that say who wrote a revision and from what, not what it is. */
const bookkeeping = new Set(["_id", "_rev", "version", "changedBy", "changedAt", "site", "note", "parent", "merged"]);

function pickHighest(live: VersionedLeaf[]): { content: undefined; conflicts: FoundConflict[] } {
  const [highest, ...others] = live as [VersionedLeaf, ...VersionedLeaf[]];
  const conflicts: FoundConflict[] = [];
  const kept = candidateOf(highest, valueOfRecord(highest.doc));
  for (const leaf of others) {
    const lost = valueOfRecord(leaf.doc);
    if (!isSame(lost, kept.value)) addConflict(conflicts, "document", "", undefined, kept, candidateOf(leaf, lost));
  }
  return { content: undefined, conflicts };
}

/** What a document is, without who wrote it: a candidate's value where the whole document is in conflict. */
export function valueOfRecord(doc: VersionedDocument): Record<string, unknown> {
  if (doc.kind === "layer") return contentOf(doc);
  return Object.fromEntries(Object.entries(doc).filter(([field]) => !bookkeeping.has(field)));
}

/** The revisions of a branch since it parted from a deletion, the newest first. */
function pathSince(deletion: VersionedLeaf, leaf: VersionedLeaf, ancestry: Ancestry): string[] {
  const known = ancestry.ancestors([deletion.rev]);
  return leaf.path.filter((rev) => !known.has(rev));
}

/**
 * True when every live branch was deleted too since it parted from this deletion, and was begun anew by someone: all
 * agreed to delete. A merge on top of a deletion is nobody's wish to begin anew.
 */
function isAgreed(
  deletion: VersionedLeaf,
  live: VersionedLeaf[],
  ancestry: Ancestry,
  history: ReadonlyMap<string, PastRevision>,
): boolean {
  return live.every((leaf) => {
    const isMerge = (rev: string | undefined) =>
      (rev === leaf.rev ? leaf.doc.merged : history.get(rev ?? "")?.merged) !== undefined;
    const path = pathSince(deletion, leaf, ancestry);
    return path.some((rev, index) => history.get(rev)?.deleted === true && !isMerge(path[index - 1]));
  });
}

function deletionConflict([deletion]: VersionedLeaf[], [highest]: VersionedLeaf[]): FoundConflict[] {
  if (deletion === undefined || highest === undefined) return [];
  const kept = candidateOf(highest, valueOfRecord(highest.doc));
  return [{ part: "document", pointer: "", candidates: [kept, candidateOf(deletion, undefined)] }];
}

function candidateOf({ rev, doc }: VersionedLeaf, value: unknown): Candidate {
  const { version, site, changedBy, changedAt } = doc;
  return { rev, version, site, changedBy, changedAt, ...(value === undefined ? {} : { value }) };
}

function contentOf({ settings, content }: VersionedDocument): Content {
  return { ...(settings === undefined ? {} : { settings }), ...(content === undefined ? {} : { content }) };
}

/**
 * The revisions that leave one branch standing. It grows on the branch that CouchDB ranks highest, deleted or not, so that
 * no mark has a higher generation: should the document be deleted one day, CouchDB then shows that tombstone, and not one
 * of our marks.
 */
function settle(open: VersionedLeaf[], merged: Content | undefined): Pick<Resolution, "writes" | "result"> {
  const [highest] = open.filter(({ doc }) => doc._deleted !== true) as [VersionedLeaf];
  const trunk = open.reduce((a, b) => (compareRevisions(a.rev, b.rev) >= 0 ? a : b));
  const content = merged ?? contentOf(highest.doc);
  const standing =
    trunk.doc._deleted !== true &&
    open.every((leaf) => leaf === trunk || isBelow(leaf, trunk)) &&
    (merged === undefined ? trunk === highest : isSame(contentOf(trunk.doc), content));
  const result = standing ? undefined : withFixedRevision(mergedDocument(highest, trunk, open, content), trunk.path);
  const into = result?._rev ?? trunk.rev;
  const marks = open
    .filter((leaf) => leaf !== trunk)
    .map((leaf) => withFixedRevision({ ...markOf(leaf.doc), mergedInto: into }, leaf.path));
  return { writes: [...(result === undefined ? [] : [result]), ...marks], result: into };
}

/** True when `leaf` can end in a mark while `trunk` stays as it is. */
function isBelow(leaf: VersionedLeaf, trunk: VersionedLeaf): boolean {
  return generationOf(leaf.rev) < generationOf(trunk.rev) && leaf.doc.version <= trunk.doc.version;
}

function mergedDocument(
  highest: VersionedLeaf,
  trunk: VersionedLeaf,
  open: VersionedLeaf[],
  content: Content,
): VersionedDocument {
  const {
    settings: _settings,
    content: _content,
    note: _note,
    parent: _parent,
    merged: _merged,
    ...rest
  } = highest.doc;
  const reference = ({ rev, doc }: VersionedLeaf) => ({ rev, version: doc.version });
  const authors = [...new Set(open.map(({ doc }) => doc.changedBy))].sort().join(", ");
  return {
    ...rest,
    ...content,
    version: Math.max(...open.map(({ doc }) => doc.version)) + 1,
    changedBy: authors.slice(0, 200),
    changedAt: open
      .map(({ doc }) => doc.changedAt)
      .sort()
      .at(-1) as string,
    note: `merged from ${open.map(({ doc }) => `version ${doc.version} of ${doc.site}`).join(", ")}`.slice(0, 2000),
    parent: reference(trunk),
    merged: open.filter((leaf) => leaf !== trunk).map(reference),
  };
}

/** A tombstone that is still a whole document of its kind: guards and filters look at its fields. */
function markOf(doc: VersionedDocument): VersionedDocument {
  const { note: _note, parent: _parent, merged: _merged, content: _content, ...kept } = doc;
  return { ...kept, ...(doc.settings === undefined ? {} : { settings: {} }), _deleted: true };
}
