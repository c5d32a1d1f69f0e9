/** Sites with one layer each, in memory: revision trees as CouchDB keeps them, their replication, and resolving. */
import type { ConflictDocument } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import { compareRevisions, withFixedRevision } from "../../config-db/revision.ts";
import type { Stored } from "../../config-db/store.ts";
import { isUsable } from "../../coordinator/config/arrival.ts";
import type { Leaf } from "../../coordinator/sites/ancestry.ts";
import { conflictDocument } from "../../coordinator/sites/conflict.ts";
import {
  neededHistory,
  type PastRevision,
  type Resolution,
  resolve,
  type VersionedDocument,
} from "../../coordinator/sites/resolve.ts";
import { isSame, valueAt, withValueAt } from "../../coordinator/sites/three-way.ts";

const record = documentId.layer("platform");

/** One value that someone changed. `value` undefined: it is not there any more; `pointer` "": the layer was deleted. */
export interface Edit {
  rev: string;
  pointer: string;
  value: unknown;
}

/** What all sites together did: the judge's view, which no site has. */
export class Chronicle {
  readonly edits: Edit[] = [];
  readonly #parents = new Map<string, string[]>();
  readonly #settings = new Map<string, Record<string, unknown>>();
  #now = 0;

  /** Another instant each time. */
  tick(): string {
    return new Date(Date.UTC(2026, 0, 1) + this.#now++ * 1000).toISOString();
  }

  note(rev: string, parents: string[], settings: Record<string, unknown>): void {
    this.#parents.set(rev, parents);
    this.#settings.set(rev, settings);
  }

  /** True when an edit only puts back what was there before: three-way, that side then changed nothing. */
  putsBack({ rev, pointer, value }: Edit): boolean {
    const before = [...this.ancestors(rev)].filter((past) => past !== rev).map((past) => this.#settings.get(past));
    return [{}, ...before].some((settings) => isSame(valueAt(settings, pointer), value));
  }

  ancestors(rev: string): Set<string> {
    const found = new Set([rev]);
    for (const each of found) for (const parent of this.#parents.get(each) ?? []) found.add(parent);
    return found;
  }
}

export class ModelSite {
  readonly name: string;
  readonly conflicts = new Map<string, Stored<ConflictDocument>>();
  readonly #chronicle: Chronicle;
  readonly #revisions = new Map<string, Leaf<VersionedDocument>>();
  readonly #history = new Map<string, PastRevision>();

  constructor(name: string, chronicle: Chronicle) {
    this.name = name;
    this.#chronicle = chronicle;
  }

  leaves(): Leaf<VersionedDocument>[] {
    const parents = new Set([...this.#revisions.values()].map(({ path }) => path[1]));
    return [...this.#revisions.values()].filter(({ rev }) => !parents.has(rev));
  }

  /** What a plain GET shows, and the tombstone where it is deleted. */
  winner(): Leaf<VersionedDocument> | undefined {
    const leaves = this.leaves();
    const live = leaves.filter(({ doc }) => doc._deleted !== true);
    return (live.length > 0 ? live : leaves).sort((a, b) => compareRevisions(a.rev, b.rev)).at(-1);
  }

  settings(): Record<string, unknown> | undefined {
    const winner = this.winner();
    return winner === undefined || winner.doc._deleted === true ? undefined : winner.doc.settings;
  }

  /** A write as the coordinator makes it: on top of what the site shows. One that changes nothing is not made. */
  edit(pointer: string, value: unknown): void {
    const standing = this.winner();
    const deletes = pointer === "";
    const settings = deletes ? {} : withValueAt(this.settings() ?? {}, pointer, value);
    if (!deletes && isSame(settings, this.settings() ?? {})) return;
    const doc: VersionedDocument = {
      _id: record,
      kind: "layer",
      schemaVersion: 1,
      layer: "platform",
      settings: settings as Record<string, unknown>,
      version: (standing?.doc.version ?? 0) + 1,
      changedBy: `operator of ${this.name}`,
      changedAt: this.#chronicle.tick(),
      site: this.name,
      ...(standing === undefined ? {} : { parent: { rev: standing.rev, version: standing.doc.version } }),
      ...(deletes ? { _deleted: true } : {}),
    };
    const { _rev: rev } = this.#store(withFixedRevision(doc, standing?.path), [standing?.rev ?? []].flat());
    if (deletes) this.#chronicle.edits.push({ rev, pointer, value });
    else {
      const [was, is] = [flatten(standing?.doc.settings), flatten(settings)];
      for (const place of new Set([...was.keys(), ...is.keys()])) {
        const becameObject = !is.has(place) && [...is.keys()].some((key) => key.startsWith(`${place}/`));
        if (becameObject || isSame(was.get(place), is.get(place))) continue;
        this.#chronicle.edits.push({ rev, pointer: place, value: is.get(place) });
      }
    }
  }

  /** @returns whether there was something to resolve. */
  resolve(): boolean {
    const leaves = this.leaves();
    const history = new Map(
      neededHistory(leaves, isUsable).contents.flatMap((rev) => {
        const past = this.#history.get(rev);
        return past === undefined ? [] : [[rev, past] as const];
      }),
    );
    const resolution: Resolution | undefined = resolve(leaves, history, isUsable);
    if (resolution === undefined) return false;
    for (const found of resolution.conflicts) {
      const doc = conflictDocument(record, found);
      if (!this.conflicts.has(doc._id)) this.conflicts.set(doc._id, doc);
    }
    const ends = resolution.writes.map(({ _revisions: { start, ids } }) => `${start - 1}-${ids[1]}`);
    for (const write of resolution.writes) this.#store(write, write._rev === resolution.result ? ends : []);
    return true;
  }

  replicateFrom(other: ModelSite): void {
    for (const [rev, revision] of other.#revisions) this.#revisions.set(rev, revision);
    for (const [rev, past] of other.#history) this.#history.set(rev, past);
    for (const [id, conflict] of other.conflicts) {
      if (this.conflicts.get(id)?._deleted !== true) this.conflicts.set(id, conflict);
    }
  }

  #store(
    doc: VersionedDocument & { _rev: string; _revisions: { start: number; ids: string[] } },
    parents: string[],
  ): { _rev: string } {
    const { _revisions: revisions, ...stored } = doc;
    const path = revisions.ids.map((id, index) => `${revisions.start - index}-${id}`);
    this.#revisions.set(doc._rev, { rev: doc._rev, path, doc: stored });
    const { settings = {}, _deleted: deleted, merged } = doc as VersionedDocument & { merged?: unknown[] };
    const { version, changedBy, changedAt, site } = doc;
    this.#history.set(doc._rev, {
      ...{ rev: doc._rev, version, changedBy, changedAt, site, settings },
      ...(deleted ? { deleted } : {}),
      ...(merged ? { merged } : {}),
    });
    this.#chronicle.note(doc._rev, parents, settings);
    return stored;
  }
}

/** Every value that is no object with members, by its pointer. */
function flatten(value: unknown, pointer = ""): Map<string, unknown> {
  const members = typeof value === "object" && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
  if (members.length === 0) return new Map(value === undefined || pointer === "" ? [] : [[pointer, value]]);
  return new Map(members.flatMap(([key, member]) => [...flatten(member, `${pointer}/${key}`)]));
}
