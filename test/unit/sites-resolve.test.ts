import { expect } from "chai";
import fc from "fast-check";
import { check } from "../../config-db/validate.ts";
import { isUsable } from "../../coordinator/config/arrival.ts";
import type { Parents } from "../../coordinator/sites/ancestry.ts";
import { conflictDocument, listConflict } from "../../coordinator/sites/conflict.ts";
import { neededHistory, replacedConflict, resolve } from "../../coordinator/sites/resolve.ts";
import { isSame, valueAt } from "../../coordinator/sites/three-way.ts";
import { Chronicle, type Edit, ModelSite } from "./sites-model.ts";

const siteNames = ["east", "north", "south", "west"];

function makeSites(count: number): { sites: ModelSite[]; chronicle: Chronicle } {
  const chronicle = new Chronicle();
  return { sites: siteNames.slice(0, count).map((name) => new ModelSite(name, chronicle)), chronicle };
}

/** Everyone hears everyone and resolves until there is nothing left to resolve. @returns the rounds that it took. */
function heal(sites: ModelSite[]): number {
  for (let round = 1; round <= 10; round++) {
    for (const one of sites) for (const other of sites) if (one !== other) one.replicateFrom(other);
    if (!sites.map((site) => site.resolve()).includes(true)) return round;
  }
  throw new Error("the sites resolve for ever");
}

const view = (site: ModelSite) => ({
  rev: site.winner()?.rev,
  leaves: site
    .leaves()
    .map(({ rev }) => rev)
    .sort(),
  settings: site.settings(),
  conflicts: [...site.conflicts.keys()].sort(),
});

const overlap = (a: string, b: string) => a === b || a.startsWith(`${b}/`) || b.startsWith(`${a}/`);

/** An object that one side emptied and another filled holds what both meant. */
const stands = (value: unknown, meant: unknown) =>
  isSame(value, meant) || (isSame(meant, {}) && typeof value === "object" && value !== null && !Array.isArray(value));

/** Where an edit can be found at the end; undefined when it was dropped silently. */
function whereabouts(edit: Edit, site: ModelSite, chronicle: Chronicle): string | undefined {
  const settings = site.settings();
  if (edit.pointer === "" ? settings === undefined : stands(valueAt(settings, edit.pointer), edit.value))
    return "result";
  const onTopOf = (rev: string) =>
    chronicle.edits.filter((later) => later.rev !== rev && chronicle.ancestors(later.rev).has(rev));
  const touches = (later: Edit) => later.pointer === "" || edit.pointer === "" || overlap(later.pointer, edit.pointer);
  // Whoever else said the same counts: what someone replaces knowingly is a value, whichever site it came from.
  const said = chronicle.edits.filter(({ pointer, value }) => pointer === edit.pointer && isSame(value, edit.value));
  if (said.some(({ rev }) => onTopOf(rev).some(touches))) return "history";
  if (edit.pointer !== "" && chronicle.putsBack(edit)) return "history";
  for (const { part, pointer, candidates } of site.conflicts.values()) {
    if (part === "document" && edit.pointer === "" && candidates.some(({ value }) => value === undefined))
      return "listed";
    if (part !== "settings" || !overlap(pointer, edit.pointer)) continue;
    const below = edit.pointer.slice(pointer.length);
    const told = ({ value }: { value?: unknown }) =>
      edit.pointer.startsWith(pointer)
        ? isSame(valueAt(value, below), edit.value)
        : isSame(value, valueAt(edit.value, pointer.slice(edit.pointer.length)));
    if (candidates.some(told)) return "listed";
  }
  return undefined;
}

type Step =
  | { do: "edit"; site: number; pointer: string; value: unknown }
  | { do: "delete"; site: number }
  | { do: "resolve"; site: number }
  | { do: "replicate"; from: number; to: number };

const site = fc.nat({ max: siteNames.length - 1 });
const pointer = fc.constantFrom("/a", "/b", "/c", "/deep/a", "/deep/b", "/deep/er/a", "/deep");
const value = fc.oneof(
  fc.nat({ max: 3 }),
  fc.constant(undefined),
  fc.constant(null),
  fc.constant([1, { x: 2 }]),
  fc.record({ a: fc.nat({ max: 3 }), z: fc.nat({ max: 3 }) }),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("edit" as const), site, pointer, value }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("delete" as const), site }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("resolve" as const), site }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("replicate" as const), from: site, to: site }) },
);

/** @param prompt whether what comes in is resolved before anyone writes again. */
function play(sites: ModelSite[], steps: Step[], prompt = false): void {
  for (const taken of steps) {
    if (taken.do === "replicate") {
      sites[taken.to]?.replicateFrom(sites[taken.from] as ModelSite);
      if (prompt) sites[taken.to]?.resolve();
    } else if (taken.do === "resolve") sites[taken.site]?.resolve();
    else if (taken.do === "delete") {
      if (sites[taken.site]?.settings() !== undefined) sites[taken.site]?.edit("", undefined);
    } else sites[taken.site]?.edit(taken.pointer, taken.value);
  }
}

describe("resolving at several sites, as a model", () => {
  it("ends equal everywhere, with every edit in the result, overwritten knowingly or listed, over 1,000 random schedules", function () {
    this.timeout(60_000);
    fc.assert(
      fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), (steps) => {
        const { sites, chronicle } = makeSites(siteNames.length);
        play(sites, steps);
        heal(sites);
        const [first, ...others] = sites as [ModelSite, ...ModelSite[]];
        for (const other of others) expect(view(other)).to.deep.equal(view(first));
        for (const edit of chronicle.edits) {
          expect(whereabouts(edit, first, chronicle), `edit ${JSON.stringify(edit)}`).to.not.equal(undefined);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it("lists nothing when every site keeps to settings of its own", () => {
    const own = fc.array(
      fc.oneof(
        fc.record({ do: fc.constant("edit" as const), site, pointer: fc.constant("own"), value: fc.nat() }),
        fc.record({ do: fc.constant("replicate" as const), from: site, to: site }),
      ),
      { minLength: 5, maxLength: 60 },
    );
    fc.assert(
      fc.property(own, (steps) => {
        const { sites } = makeSites(siteNames.length);
        const last = new Map<string, unknown>();
        const renamed = steps.map((taken): Step => {
          if (taken.do !== "edit") return taken;
          last.set(`own-${taken.site}`, taken.value);
          return { ...taken, pointer: `/own-${taken.site}` };
        });
        play(sites, renamed, true);
        heal(sites);
        for (const each of sites) {
          expect([...each.conflicts.values()]).to.deep.equal([]);
          expect(each.settings() ?? {}).to.deep.equal(Object.fromEntries(last));
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("a resolution", () => {
  function parted(): { east: ModelSite; west: ModelSite; both: ModelSite[] } {
    const { sites } = makeSites(4);
    const [east, , , west] = sites as [ModelSite, ModelSite, ModelSite, ModelSite];
    east.edit("", undefined);
    east.edit("/a", 1);
    east.edit("/b", 1);
    west.replicateFrom(east);
    return { east, west, both: [east, west] };
  }
  const listed = (site: ModelSite) =>
    [...site.conflicts.values()].map((doc) => listConflict("c", [doc], site.winner()?.doc));

  it("keeps the changes of both sides to different settings", () => {
    const { east, west, both } = parted();
    east.edit("/a", 2);
    west.edit("/b", 2);
    heal(both);
    expect(east.settings()).to.deep.equal({ a: 2, b: 2 });
    expect(listed(east)).to.deep.equal([]);
  });

  it("lets the higher version stand and lists the other with what was there before", () => {
    const { east, west, both } = parted();
    east.edit("/a", 2);
    east.edit("/a", 3);
    west.edit("/a", 4);
    heal(both);
    expect(west.settings()).to.deep.equal({ a: 3, b: 1 });
    const [conflict] = listed(west);
    expect(conflict).to.include({ layer: "platform", part: "settings", pointer: "/a", base: 1 });
    expect(conflict?.candidates.map(({ site, value, live }) => ({ site, value, live }))).to.have.deep.members([
      { site: "east", value: 3, live: true },
      { site: "west", value: 4, live: false },
    ]);
  });

  it("lets an edit stand against a deletion, and lists that", () => {
    const { east, west, both } = parted();
    east.edit("", undefined);
    west.edit("/a", 4);
    heal(both);
    expect(east.settings()).to.deep.equal({ a: 4, b: 1 });
    expect(listed(east).map(({ part, pointer }) => ({ part, pointer }))).to.deep.equal([
      { part: "document", pointer: "" },
    ]);
    expect(listed(east)[0]?.candidates.map((candidate) => "value" in candidate)).to.have.members([true, false]);
  });

  it("takes a deletion at both sites for an agreement, also when one begins anew", () => {
    const { east, west, both } = parted();
    east.edit("", undefined);
    west.edit("", undefined);
    heal(both);
    expect(east.settings()).to.equal(undefined);
    west.edit("/new", 1);
    heal(both);
    expect(east.settings()).to.deep.equal({ new: 1 });
    expect(listed(east)).to.deep.equal([]);
  });

  it("does not list again what a branch that came late has in common with the merge", () => {
    const { east, west, both } = parted();
    east.edit("/a", 2);
    west.edit("/b", 2);
    const late = new ModelSite("south", new Chronicle());
    late.replicateFrom(west);
    heal(both);
    east.edit("/b", 3);
    late.edit("/c", 5);
    heal([...both, late]);
    expect(west.settings()).to.deep.equal({ a: 2, b: 3, c: 5 });
    expect(listed(west)).to.deep.equal([]);
  });

  it("is the layer's tombstone in CouchDB's eyes when the merged layer is deleted", () => {
    const { east, west, both } = parted();
    east.edit("/a", 2);
    west.edit("/a", 2);
    heal(both);
    east.edit("", undefined);
    heal(both);
    expect(west.winner()?.doc).to.include({ _deleted: true, site: "east" });
    expect(west.winner()?.doc).to.not.have.property("mergedInto");
  });
});

describe("a resolution of what fits no merge", () => {
  const leaf = (rev: string, doc: object) => ({
    rev,
    path: [rev, "1-0"],
    doc: {
      _id: "layer:platform",
      _rev: rev,
      kind: "layer",
      schemaVersion: 1,
      layer: "platform",
      version: 2,
      changedBy: "a",
      changedAt: "2026-01-01T00:00:00Z",
      ...doc,
    },
  });
  const resolveThese = (...leaves: object[]) =>
    resolve(leaves as Parameters<typeof resolve>[0], new Map([["1-0", first]]), isUsable);
  const signature = { version: 1, changedBy: "a", changedAt: "2026-01-01T00:00:00Z", site: "east" };
  const first = { rev: "1-0", settings: { a: 1, b: 1 }, ...signature };

  describe("of layers whose stores do not know what they have in common", () => {
    const layer = (path: string[], version: number, settings: object) => ({
      ...leaf(path[0] as string, { site: "east", version, settings }),
      path,
    });
    const one = layer(["9-a", "8-a"], 9, { n: 9, keep: { a: 1 } });
    const other = layer(["2-b", "1-0"], 2, { n: 1, gone: 1, keep: { a: 1, b: 2 } });
    const both: object[] = [one, other];
    /** From generation 8 of `one` back to a revision of `other`. */
    const chain = (end: string) =>
      new Map(
        [8, 7, 6, 5, 4, 3].map((generation): [string, string[]] => [
          `${generation}-a`,
          [generation === 3 ? end : `${generation - 1}-a`],
        ]),
      );
    const resolveThem = (parents: Parents) =>
      resolve(both as Parameters<typeof resolve>[0], new Map([["1-0", first]]), isUsable, parents);

    it("lets the one stand that was made from the other", () => {
      const found = resolveThem(chain("2-b"));
      expect(found?.result).to.equal("9-a");
      expect(found?.writes.map(({ mergedInto }) => mergedInto)).to.deep.equal(["9-a"]);
      expect(found?.conflicts).to.deep.equal([]);
    });

    it("lists all in which they differ where the way back is broken, and adds nothing", () => {
      const broken = new Map([...chain("2-b"), ["5-a", []] as [string, string[]]]);
      for (const parents of [new Map(), broken]) {
        const found = resolveThem(parents);
        expect(found?.result).to.equal("9-a");
        expect(
          found?.conflicts.map(({ pointer, base, candidates }) => [pointer, base, candidates[1]?.value]),
        ).to.deep.equal([
          ["/gone", undefined, 1],
          ["/keep/b", undefined, 2],
          ["/n", undefined, 1],
        ]);
      }
    });

    it("asks for what came before the oldest revision that is known, and for no more than that", () => {
      const asked = (parents?: Parents) =>
        neededHistory(both as Parameters<typeof resolve>[0], isUsable, parents).parents;
      expect(asked()).to.deep.equal(["8-a"]);
      expect(asked(chain("2-b"))).to.deep.equal([]);
    });
  });

  it("adds what one layer has to the other where both were begun by themselves", () => {
    const begun = (rev: string, settings: object) => ({ ...leaf(rev, { site: "east", settings }), path: [rev] });
    const found = resolveThese(begun("1-a", { a: 1 }), begun("1-b", { b: 1 }));
    expect(found?.writes[0]?.settings).to.deep.equal({ a: 1, b: 1 });
    expect(found?.conflicts).to.deep.equal([]);
  });

  it("lets one schema stand whole and lists the other", () => {
    const schema = (rev: string, site: string, content: object) =>
      leaf(rev, { _id: "schema:t", kind: "schema", type: "t", site, schema: content });
    const found = resolveThese(schema("2-a", "east", { minimum: 1 }), schema("2-b", "west", { maximum: 9 }));
    expect(found?.writes[0]).to.deep.include({ schema: { maximum: 9 } });
    expect(found?.conflicts).to.have.length(1);
    expect(found?.conflicts[0]).to.include({ part: "document", pointer: "" });
  });

  it("lets one layer stand whole when both together are over the limit", () => {
    const half = (key: string) => ({ [key]: "x".repeat(600 * 1024) });
    const layer = (rev: string, site: string, settings: object) => leaf(rev, { kind: "layer", site, settings });
    const found = resolveThese(layer("2-a", "east", half("a")), layer("2-b", "west", half("b")));
    expect(Object.keys(found?.writes[0]?.settings ?? {})).to.deep.equal(["b"]);
    expect(found?.conflicts[0]?.candidates.map(({ site }) => site)).to.deep.equal(["west", "east"]);
  });

  it("takes a tombstone that says nothing for a deletion by somebody", () => {
    const found = resolveThese(leaf("2-a", { kind: "layer", site: "east", settings: { a: 1 } }), {
      rev: "2-b",
      path: ["2-b", "1-0"],
      doc: { _id: "layer:platform", _rev: "2-b", _deleted: true },
    });
    expect(found?.conflicts[0]?.candidates[1]).to.deep.include({ rev: "2-b", site: "unknown" });
    expect(found?.writes[0]).to.deep.include({ settings: { a: 1 } });
  });

  it("lets one layer stand whole when both together have too many files", () => {
    const about = { contentType: "text/plain", sha256: "0".repeat(64), sizeBytes: 1 };
    const files = (prefix: string) =>
      Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`${prefix}${index}`, about]));
    const layer = (rev: string, site: string, prefix: string) =>
      leaf(rev, { site, settings: {}, content: files(prefix) });
    const found = resolveThese(layer("2-a", "east", "a"), layer("2-b", "west", "b"));
    expect(found?.writes[0]?.content).to.deep.equal(files("b"));
    expect(found?.conflicts).to.have.length(1);
    expect(found?.conflicts[0]).to.include({ part: "document" });
    expect(found?.conflicts[0]?.candidates[1]?.value).to.deep.include({ content: files("a") });
  });

  it("takes a content file for one value", () => {
    const about = (contentType: string, digit: string) => ({ contentType, sha256: digit.repeat(64), sizeBytes: 3 });
    const layer = (rev: string, site: string, contentType: string, digit: string) =>
      leaf(rev, { site, settings: {}, content: { f: about(contentType, digit), [site]: about("text/plain", "0") } });
    const files = { f: about("text/plain", "0") };
    const found = resolve(
      [layer("2-a", "east", "application/xml", "a"), layer("2-b", "west", "text/plain", "b")] as never,
      new Map([["1-0", { ...first, settings: {}, content: files }]]),
      isUsable,
    );
    const other = about("text/plain", "0");
    expect(found?.writes[0]?.content).to.deep.equal({ f: about("text/plain", "b"), east: other, west: other });
    expect(found?.conflicts.map(({ part, pointer, base }) => ({ part, pointer, base }))).to.deep.equal([
      { part: "content", pointer: "/f", base: { value: about("text/plain", "0") } },
    ]);
    expect(found?.conflicts[0]?.candidates.map(({ value }) => value)).to.deep.equal([
      about("text/plain", "b"),
      about("application/xml", "a"),
    ]);
  });

  const malformed: [string, object][] = [
    ["content that is none", { content: "nonsense", settings: { a: 9, b: 1 } }],
    ["settings with a name that is CouchDB's", { settings: { _x: 1 } }],
    ["a note that is none", { note: 5, settings: { a: 9, b: 1 } }],
    ["half a surrogate pair beside its settings", { more: "\ud800", settings: { a: 9, b: 1 } }],
    [
      "an author and a time that are too much",
      { changedBy: "x".repeat(300), changedAt: "2026-02-30T00:00:00Z", settings: {} },
    ],
  ];
  for (const [what, doc] of malformed) {
    it(`takes nothing from a revision that is none of its kind, and lists it: ${what}`, () => {
      const bad = leaf("2-b", { site: "west", version: 3, ...doc });
      const good = leaf("2-a", { site: "east", settings: { a: 1, b: 2 } });
      const found = resolveThese(bad, good);
      expect(found?.writes[0]).to.deep.include({ settings: { a: 1, b: 2 }, version: 4 });
      expect(found?.writes.map((write) => isUsable(write))).to.deep.equal([true, true]);
      expect(found?.conflicts).to.have.length(1);
      const listed = conflictDocument("layer:platform", found?.conflicts[0] as never);
      expect(check("conflict-document", listed)).to.deep.equal([]);
      const [conflict] = [listConflict("c", [listed], found?.writes[0])];
      expect(conflict?.candidates.map(({ rev, live, unusable }) => ({ rev, live, unusable }))).to.have.deep.members([
        { rev: "2-a", live: true, unusable: undefined },
        { rev: "2-b", live: false, unusable: true },
      ]);
    });
  }

  it("lets what was valid before a revision that is none of its kind stand in its place", () => {
    const bad = { ...leaf("3-b", { site: "west", version: 3, note: 5, settings: {} }), path: ["3-b", "2-b", "1-0"] };
    const good = leaf("2-a", { site: "east", settings: { a: 1, b: 2 } });
    const history = new Map([
      ["1-0", first],
      ["2-b", { ...first, rev: "2-b", settings: { a: 2, b: 1 } }],
    ]);
    const found = resolve([bad, good] as never, history, isUsable);
    expect(found?.writes[0]?.settings).to.deep.equal({ a: 2, b: 2 });
  });

  it("lets a deletion stand against a revision that is none of its kind and of which nothing is known", () => {
    const bad = { ...leaf("1-b", { site: "west", note: 5, settings: {} }), path: ["1-b"] };
    const gone = leaf("2-a", { site: "east", settings: {}, _deleted: true });
    const found = resolveThese(bad, gone);
    expect(found?.result).to.equal("2-a");
    expect(found?.writes).to.have.length(1);
    expect(found?.writes[0]).to.deep.include({ _deleted: true, mergedInto: "2-a" });
    expect(found?.conflicts[0]?.candidates.map(({ rev }) => rev)).to.deep.equal(["2-a", "1-b"]);
  });

  it("can be told to let what stands stand where nothing that was replaced can", () => {
    const { doc } = leaf("1-b", { site: "west", note: 5, settings: {} });
    const { doc: current } = leaf("2-a", { site: "east", settings: { a: 1 } });
    const listed = conflictDocument("layer:platform", replacedConflict(doc as never, undefined));
    const { candidates } = listConflict("c", [listed], current as never);
    expect(candidates.map(({ rev, live }) => ({ rev, live }))).to.deep.equal([
      { rev: "2-a", live: true },
      { rev: "1-b", live: false },
    ]);
  });

  it("decides nothing where no revision is one of its kind", () => {
    const bad = (rev: string) => ({ ...leaf(rev, { site: "west", note: 5, settings: {} }), path: [rev] });
    expect(resolveThese(bad("1-a"), bad("1-b"))).to.equal(undefined);
  });
});
