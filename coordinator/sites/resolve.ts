/**
 * What becomes of a document that several sites changed at once. A function of the set of leaf revisions and of what
 * the revisions between them were: every site that has these writes the same revisions, whichever comes first.
 *
 * - Settings merge three-way from the common ancestor, member by member; the list of attached content file by file. A side
 *   that the other was made from is replaced. Where the ancestor cannot be had, all that differs counts as changed by both.
 * - Where two sides changed the same place, the higher (`version`, `site`, `rev`) stands, and the place is told.
 * - A deletion against an edit: the edit stands, and the deletion is told. A configuration that is gone breaks
 *   components at once; one that is there too long does not.
 * - Records that are one thing (schemas, secrets, candidates) do not merge: the higher one stands, the other is told. So do
 *   layers that make no usable one together: over a mebibyte of settings, or too many files.
 * - A revision that is none of its kind has no effect anywhere, and none here: in its place stands the newest version before
 *   it that history knows, as it is in force where it was written; where there is none, the branch counts for nothing. It is told.
 *
 * All branches but one end in a tombstone that names the revision they went into (`mergedInto`): a later merge knows by
 * it what both sides have in common already.
 */
import { limits } from "../../config-db/limits.ts";
import { idPattern } from "../../config-db/names.ts";
import {
  compareRevisions,
  type Fixed,
  generationOf,
  nextVersion,
  versionMax,
  withFixedRevision,
} from "../../config-db/revision.ts";
import type { Document } from "../../config-db/store.ts";
import { jsonErrors } from "../json-rules.ts";
import { Ancestry, isMergeMark, type Leaf, type Parents } from "./ancestry.ts";
import { type FieldConflict, isSame, mergeThreeWay, unknownBase, valueAt } from "./three-way.ts";

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

/** Whether a document is one of its kind: the rule by which coordinators take in what the database gives. */
export type IsUsable = (doc: Document) => boolean;

/** One side of a conflict. `value` is absent where that side has nothing there. */
export interface Candidate {
  rev: string;
  version: number;
  site: string;
  changedBy: string;
  changedAt: string;
  value?: unknown;
  /** That side is a revision that is none of its kind, and cannot be chosen; its value is absent where it is no sound JSON. */
  unusable?: true;
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
  rev: string;
  version: number;
  changedBy: string;
  changedAt: string;
  site: string;
  settings: Record<string, unknown>;
  content?: Record<string, unknown>;
  deleted?: boolean;
  merged?: unknown[];
}

type VersionedLeaf = Leaf<VersionedDocument>;

/** A branch that wants a decision. `doc` is what it stands for: its leaf, or what was before where that is unusable. */
interface Side extends OpenLeaf {
  leaf: VersionedDocument;
  /** Unusable, and nothing is known before it. */
  isVoid: boolean;
}

type OpenLeaf = VersionedLeaf & { isUsable: boolean };

/** The leaves that still want a decision, the one that stands highest first. */
function openLeaves(leaves: VersionedLeaf[], isUsable: IsUsable): OpenLeaf[] {
  const open = leaves.filter(({ doc }) => !isMergeMark(doc));
  return open
    .map((leaf) => ({ ...signed(leaf), isUsable: leaf.doc._deleted === true || isUsable(leaf.doc) }))
    .sort((a, b) => -compareStanding(a, b));
}

/**
 * With a signature that is sound. Who deletes with CouchDB's own DELETE signs nothing: the guard lets such a tombstone pass, and
 * here it stands lowest.
 */
function signed({ doc, ...leaf }: VersionedLeaf): VersionedLeaf {
  const { version, changedBy, changedAt, site }: Record<string, unknown> = doc;
  const signature = {
    version: Number.isInteger(version) ? Math.min(Math.max(Number(version), 1), versionMax) : 1,
    changedBy: typeof changedBy === "string" ? changedBy.toWellFormed().slice(0, changedByMax) : "unknown",
    changedAt: typeof changedAt === "string" && isTime(changedAt) ? changedAt : new Date(0).toISOString(),
    site: typeof site === "string" && idPattern.test(site) ? site : "unknown",
  };
  return { ...leaf, doc: { ...doc, ...signature } };
}

/** The guard looks at the form alone, which 30 February has too. */
function isTime(text: string): boolean {
  const time = new Date(text);
  return !Number.isNaN(time.getTime()) && time.toISOString().slice(0, 10) === text.slice(0, 10);
}

/** Characters of an author's name, as in the schemas. */
const changedByMax = 200;

/** (`version`, `site`, `rev`), as design §3 orders them. */
function compareStanding(a: VersionedLeaf, b: VersionedLeaf): number {
  const [siteA, siteB] = [a.doc.site, b.doc.site];
  return a.doc.version - b.doc.version || (siteA < siteB ? -1 : siteA > siteB ? 1 : compareRevisions(a.rev, b.rev));
}

/** True when these leaves want a resolution: two open ones, of which not all are deletions. */
export function isOpen(leaves: VersionedLeaf[]): boolean {
  const open = leaves.filter(({ doc }) => !isMergeMark(doc));
  return open.length > 1 && open.some(({ doc }) => doc._deleted !== true);
}

/** What `resolve` asks history for. */
export interface NeededHistory {
  /** The revisions whose content it wants. */
  contents: string[];
  /** Those of which it has to know what they were made from. */
  parents: string[];
}

/** @param earlier what history has told of parents so far */
export function neededHistory(
  leaves: VersionedLeaf[],
  isUsable: IsUsable,
  earlier: Parents = new Map(),
): NeededHistory {
  const open = openLeaves(leaves, isUsable);
  if (open[0]?.doc.kind !== "layer") return { contents: [], parents: [] };
  const ancestry = new Ancestry(leaves, earlier);
  const live = open.filter(({ doc }) => doc._deleted !== true);
  const usable = live.filter((leaf) => leaf.isUsable);
  const contents = new Set<string>();
  const parents = new Set<string>();
  const hidden = (revs: string[]) => {
    for (const rev of revs) parents.add(rev);
  };
  // Which revisions a merge asks for does not depend on what they hold.
  const known = (rev: string) => {
    contents.add(rev);
    return {};
  };
  for (const sides of [live, usable]) {
    mergeRevisions(
      sides.map(({ rev }) => rev),
      { ancestry, known, hidden },
    );
  }
  for (const deletion of open.filter(({ doc }) => doc._deleted === true)) {
    for (const leaf of live) {
      hidden(ancestry.mergeBases([deletion.rev], leaf.rev).hiddenBy);
      for (const rev of pathSince(deletion, leaf, ancestry)) contents.add(rev);
    }
  }
  for (const { path, isUsable } of live) if (!isUsable && path[1] !== undefined) contents.add(path[1]);
  for (const { rev } of open) contents.delete(rev);
  return { contents: [...contents], parents: [...parents] };
}

/**
 * @param history the revisions that `neededHistory` named, as far as they are known
 * @param earlier the parents that it named, as far as they are known
 * @returns undefined where nothing is to be decided
 */
export function resolve(
  leaves: VersionedLeaf[],
  history: ReadonlyMap<string, PastRevision>,
  isUsable: IsUsable,
  earlier: Parents = new Map(),
): Resolution | undefined {
  if (!isOpen(leaves)) return undefined;
  const open = openLeaves(leaves, isUsable).map((leaf) => sideOf(leaf, history));
  const ancestry = new Ancestry(leaves, earlier);
  const sides = open.filter(({ isVoid }) => !isVoid);
  const live = sides.filter(({ doc }) => doc._deleted !== true);
  const highest = live[0] ?? sides[0];
  if (highest === undefined) return undefined;
  const merged = highest.doc.kind === "layer" ? mergeLayers(live, ancestry, history, isUsable) : pickHighest(live);
  const deletions = sides.filter((side) => side.doc._deleted === true && !isAgreed(side, live, ancestry, history));
  return {
    ...settle(open, highest, merged.content),
    conflicts: [
      ...merged.conflicts,
      ...deletionConflict(deletions, live),
      ...unusableConflict(open, live.find((side) => side.isUsable) ?? highest),
    ],
  };
}

function sideOf({ doc: leaf, ...branch }: OpenLeaf, history: ReadonlyMap<string, PastRevision>): Side {
  const { rev, path, isUsable } = branch;
  const past = isUsable ? undefined : history.get(path[1] ?? "");
  if (past === undefined) return { ...branch, leaf, doc: { ...leaf, _rev: rev }, isVoid: !isUsable };
  const { settings, content, version, changedBy, changedAt, site } = past;
  const before = {
    ...identityOf(leaf),
    ...{ _rev: past.rev, settings, version, changedBy, changedAt, site },
    ...(content === undefined ? {} : { content }),
    ...(past.deleted === true ? { _deleted: true } : {}),
  };
  return { ...branch, leaf, doc: before, isVoid: false };
}

type Content = Pick<VersionedDocument, "settings" | "content">;

function mergeLayers(
  live: Side[],
  ancestry: Ancestry,
  history: ReadonlyMap<string, PastRevision>,
  isUsable: IsUsable,
): { content: Content | undefined; conflicts: FoundConflict[] } {
  const [highest] = live;
  if (highest === undefined) return { content: undefined, conflicts: [] };
  const conflicts: FoundConflict[] = [];
  const contents = new Map(live.map(({ rev, doc }): [string, Content] => [rev, contentOf(doc)]));
  const content = mergeRevisions(
    live.map(({ rev }) => rev),
    {
      ancestry,
      known: (rev) => contents.get(rev) ?? history.get(rev),
      collided: (part, { pointer, base, kept, lost }, index) => {
        // The highest of those who say what stands: it is whom the operator should ask.
        const author = live.find(({ doc }) => isSame(valueAt(doc[part], pointer), kept)) ?? highest;
        addConflict(conflicts, part, pointer, base, candidateOf(author, kept), candidateOf(live[index] as Side, lost));
      },
    },
  );
  // Two halves that each fit can make a whole that does not: then one stands, and the other waits for an operator.
  return isUsable({ ...identityOf(highest.doc), ...signatureOf(highest.doc), ...content })
    ? { content, conflicts }
    : pickHighest(live);
}

interface Merging {
  ancestry: Ancestry;
  /** What a revision holds, as far as that can be had. */
  known(rev: string): Content | undefined;
  /** Told of places that both sides changed. @param index of the revision whose value does not stand */
  collided?(part: "settings" | "content", conflict: FieldConflict, index: number): void;
  /** Told of revisions before which what both sides have in common may lie. */
  hidden?(revs: string[]): void;
}

/**
 * Revisions made one, the first standing highest. Each is merged from what it has in common with those before; where that
 * is several revisions, because sites merged crosswise, these are merged first, as git's recursive strategy does.
 * @returns undefined where one of them cannot be had
 */
function mergeRevisions(revs: string[], merging: Merging): Content | undefined {
  const { known, collided } = merging;
  const [first, ...others] = revs;
  let content: Content | undefined = first === undefined ? {} : known(first);
  for (const [index, rev] of others.entries()) {
    const base = baseOf(revs.slice(0, index + 1), rev, merging);
    const other = known(rev);
    if (content === undefined || other === undefined) return undefined;
    const settings = mergeThreeWay(partOf(base, "settings"), content.settings ?? {}, other.settings ?? {});
    // A file is one value: what its hash, its size and its media type say belongs together.
    const files = mergeThreeWay(partOf(base, "content"), content.content ?? {}, other.content ?? {}, 1);
    for (const conflict of settings.conflicts) collided?.("settings", conflict, index + 1);
    for (const conflict of files.conflicts) collided?.("content", conflict, index + 1);
    content = contentOf({ settings: settings.merged, content: files.merged } as Content);
  }
  return content;
}

/** What these revisions and another one were made from; undefined where that cannot be had. */
function baseOf(revs: string[], other: string, { ancestry, known, hidden }: Merging): Content | undefined {
  const bases = ancestry.mergeBases(revs, other);
  hidden?.(bases.hiddenBy);
  const merged = mergeRevisions(bases.revs, { ancestry, known, ...(hidden && { hidden }) });
  return bases.hiddenBy.length > 0 ? undefined : merged;
}

function partOf(base: Content | undefined, part: "settings" | "content"): unknown {
  return base === undefined ? unknownBase : (base[part] ?? {});
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

function pickHighest(live: Side[]): { content: undefined; conflicts: FoundConflict[] } {
  const [highest, ...others] = live;
  const conflicts: FoundConflict[] = [];
  if (highest === undefined) return { content: undefined, conflicts };
  const kept = candidateOf(highest, valueOfRecord(highest.doc));
  for (const side of others) {
    const lost = valueOfRecord(side.doc);
    if (!isSame(lost, kept.value)) addConflict(conflicts, "document", "", undefined, kept, candidateOf(side, lost));
  }
  return { content: undefined, conflicts };
}

/** What people say in a document of each kind; all else is said of it. */
export function saidFieldsOf(kind: string): readonly string[] {
  return saidFields.get(kind) ?? [];
}

const saidFields = new Map<string, readonly string[]>([
  ["layer", ["settings", "content"]],
  ["schema", ["schema"]],
  ["secret", ["sealed"]],
  [
    "candidate",
    ["settings", "selector", "promoteWhen", "withdrawOnReject", "base", "state", "promotingSince", "reason"],
  ],
]);

/** What a document says, without who wrote it: a candidate's value where the whole document is in conflict. */
export function valueOfRecord(doc: VersionedDocument): Record<string, unknown> {
  return doc.kind === "layer" ? contentOf(doc) : fieldsOf(doc, saidFieldsOf(doc.kind));
}

/** What a document is one of. */
export function identityOf(doc: VersionedDocument): Pick<VersionedDocument, "_id" | "kind" | "schemaVersion"> {
  const { _id, kind, schemaVersion } = doc;
  return { ...fieldsOf(doc, ["layer", "type", "name"]), _id, kind, schemaVersion };
}

function signatureOf({ version, changedBy, changedAt, site }: VersionedDocument) {
  return { version, changedBy, changedAt, site };
}

export function fieldsOf(doc: Record<string, unknown>, fields: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(fields.filter((field) => doc[field] !== undefined).map((field) => [field, doc[field]]));
}

/** The revisions of a branch since it parted from a deletion, the newest first; none where it was made from that. */
function pathSince(deletion: VersionedLeaf, leaf: VersionedLeaf, ancestry: Ancestry): string[] {
  if (isMadeFrom(leaf, deletion, ancestry)) return [];
  const known = ancestry.ancestors([deletion.rev]);
  return leaf.path.filter((rev) => !known.has(rev));
}

function isMadeFrom({ rev }: VersionedLeaf, earlier: VersionedLeaf, ancestry: Ancestry): boolean {
  return ancestry.ancestors([rev]).has(earlier.rev);
}

/**
 * True when every live branch was made from this deletion, or was deleted too since it parted from it, and was begun anew by
 * someone: all agreed to delete. A merge on top of a deletion is nobody's wish to begin anew.
 */
function isAgreed(
  deletion: Side,
  live: Side[],
  ancestry: Ancestry,
  history: ReadonlyMap<string, PastRevision>,
): boolean {
  return live.every((leaf) => {
    if (isMadeFrom(leaf, deletion, ancestry)) return true;
    const isMerge = (rev: string | undefined) =>
      (rev === leaf.rev ? leaf.doc.merged : history.get(rev ?? "")?.merged) !== undefined;
    const path = pathSince(deletion, leaf, ancestry);
    return path.some((rev, index) => history.get(rev)?.deleted === true && !isMerge(path[index - 1]));
  });
}

function deletionConflict([deletion]: Side[], [highest]: Side[]): FoundConflict[] {
  if (deletion === undefined || highest === undefined) return [];
  const kept = candidateOf(highest, valueOfRecord(highest.doc));
  return [{ part: "document", pointer: "", candidates: [kept, candidateOf(deletion, undefined)] }];
}

/** What is none of its kind is not lost unseen. */
function unusableConflict(open: Side[], kept: Side): FoundConflict[] {
  const lost = open
    .filter(({ isUsable }) => !isUsable)
    .map(({ rev, leaf }) => unusableCandidate({ ...leaf, _rev: rev }));
  if (lost.length === 0) return [];
  const value = kept.doc._deleted === true ? undefined : valueOfRecord(kept.doc);
  return [{ part: "document", pointer: "", candidates: [candidateOf(kept, value), ...lost] }];
}

/** A revision that is none of its kind, as a side of a conflict. */
function unusableCandidate(leaf: VersionedDocument & { _rev: string }): Candidate {
  const value = fieldsOf(leaf, saidFieldsOf(leaf.kind));
  const rules = { keyError: () => undefined, depthMax: 2 * limits.settingsDepth, bytesMax: limits.bodyBytes };
  const isSound = jsonErrors(value, rules).length === 0;
  return { rev: leaf._rev, ...signatureOf(leaf), unusable: true, ...(isSound ? { value } : {}) };
}

/**
 * What is to be told of a revision that is none of its kind and gives way to a write.
 * @param inForce what stands in its place, where anything does
 */
export function replacedConflict(
  unusable: VersionedDocument & { _rev: string },
  inForce: VersionedDocument | undefined,
): FoundConflict {
  const { doc } = signed({ rev: unusable._rev, path: [], doc: unusable });
  const kept = inForce === undefined ? [] : [candidateOf({ doc: inForce }, valueOfRecord(inForce))];
  return { part: "document", pointer: "", candidates: [...kept, unusableCandidate({ ...doc, _rev: unusable._rev })] };
}

export function candidateOf({ doc }: { doc: VersionedDocument }, value: unknown): Candidate {
  return { rev: doc._rev as string, ...signatureOf(doc), ...(value === undefined ? {} : { value }) };
}

function contentOf({ settings, content }: Content): Content {
  return {
    ...(settings === undefined ? {} : { settings }),
    ...(content === undefined || Object.keys(content).length === 0 ? {} : { content }),
  };
}

/**
 * The revisions that leave one branch standing. It grows on the branch that CouchDB ranks highest, deleted or not, so that
 * no mark has a higher generation: should the document be deleted one day, CouchDB then shows that tombstone, and not one
 * of our marks.
 */
function settle(open: Side[], highest: Side, merged: Content | undefined): Pick<Resolution, "writes" | "result"> {
  const trunk = open.reduce((a, b) => (compareRevisions(a.rev, b.rev) >= 0 ? a : b));
  const standing =
    trunk.isUsable &&
    (trunk.doc._deleted === true) === (highest.doc._deleted === true) &&
    open.every((side) => side === trunk || isBelow(side, trunk)) &&
    (merged === undefined ? trunk === highest : isSame(contentOf(trunk.doc), merged));
  const result = standing ? undefined : withFixedRevision(mergedDocument(highest, trunk, open, merged), trunk.path);
  const into = result?._rev ?? trunk.rev;
  const marks = open
    .filter((side) => side !== trunk)
    .map((side) => withFixedRevision({ ...markOf(side.leaf), mergedInto: into }, side.path));
  return { writes: [...(result === undefined ? [] : [result]), ...marks], result: into };
}

/** True when `side` can end in a mark while `trunk` stays as it is. */
function isBelow(side: Side, trunk: Side): boolean {
  return generationOf(side.rev) < generationOf(trunk.rev) && side.leaf.version <= trunk.leaf.version;
}

function mergedDocument(highest: Side, trunk: Side, open: Side[], merged: Content | undefined): VersionedDocument {
  const { doc } = highest;
  const reference = ({ rev, leaf }: Side) => ({ rev, version: leaf.version });
  const authors = [...new Set(open.map(({ leaf }) => leaf.changedBy))].sort().join(", ");
  const sides = open.map(({ leaf }) => `version ${leaf.version} of ${leaf.site}`).join(", ");
  return {
    ...identityOf(doc),
    ...(doc._deleted === true ? { _deleted: true } : {}),
    ...(merged ?? valueOfRecord(doc)),
    version: nextVersion(Math.max(...open.map(({ leaf }) => leaf.version))),
    changedBy: authors.slice(0, changedByMax),
    changedAt: open
      .map(({ leaf }) => leaf.changedAt)
      .sort()
      .at(-1) as string,
    site: doc.site,
    note: `merged from ${sides}`.slice(0, 2000),
    parent: reference(trunk),
    merged: open.filter((side) => side !== trunk).map(reference),
  };
}

/** A tombstone of its kind, with nothing in it that someone said. */
function markOf(leaf: VersionedDocument): VersionedDocument {
  const settings = leaf.kind === "layer" ? { settings: {} } : {};
  return { ...identityOf(leaf), ...settings, ...signatureOf(leaf), _deleted: true };
}
