import { expect } from "chai";
import fc from "fast-check";
import { etagOf, sameJson } from "../../coordinator/config/etag.ts";
import { explain } from "../../coordinator/config/explain.ts";
import {
  isObject,
  type LayerSettings,
  mergeLayers,
  mergePatch,
  type Settings,
} from "../../coordinator/config/merge.ts";
import { childPointer, pointerKeys } from "../../coordinator/pointer.ts";

/** Few keys, so that layers meet. `__proto__` is among them: it must be a name like any other. */
const key = fc.constantFrom("a", "b", "c/d", "e~f", "", "__proto__");
const { settings } = fc.letrec<{ value: unknown; settings: Settings }>((tie) => ({
  settings: fc
    .array(fc.tuple(key, tie("value")), { maxLength: 4 })
    .map((entries) => Object.fromEntries(entries) as Settings),
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(null, true, 0, 1, "x"),
    fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 2 }),
    tie("settings"),
  ),
}));
const names = ["platform", "subsystem:s", "type:t", "component:c"] as const;
const layers = fc.array(settings, { minLength: 1, maxLength: 4 }).map((list) =>
  list.map<LayerSettings>((one, index) => ({
    layer: names[index] ?? "platform",
    version: index + 1,
    settings: one,
  })),
);

function valueAt(root: unknown, pointer: string): unknown {
  return pointerKeys(pointer).reduce<unknown>((value, name) => {
    return isObject(value) && Object.hasOwn(value, name)
      ? Object.getOwnPropertyDescriptor(value, name)?.value
      : undefined;
  }, root);
}

function leafPointers(value: unknown, pointer = ""): string[] {
  if (!isObject(value) || Object.keys(value).length === 0) return pointer === "" ? [] : [pointer];
  return Object.entries(value).flatMap(([name, child]) => leafPointers(child, childPointer(pointer, name)));
}

describe("merging layers", () => {
  // RFC 7396, appendix A.
  const cases: [unknown, unknown, unknown][] = [
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: "b", b: "c" }, { a: null }, { b: "c" }],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [
      ["a", "b"],
      ["c", "d"],
      ["c", "d"],
    ],
    [{ a: "b" }, ["c"], ["c"]],
    [{ a: "foo" }, null, null],
    [{ a: "foo" }, "bar", "bar"],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: "b", c: null }, { a: "b" }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ];
  for (const [target, patch, result] of cases) {
    it(`makes ${JSON.stringify(result)} of ${JSON.stringify(target)} and ${JSON.stringify(patch)}`, () => {
      expect(mergePatch(target, patch)).to.deep.equal(result);
    });
  }

  it("leaves what it merges untouched", () => {
    fc.assert(
      fc.property(layers, (list) => {
        const before = JSON.stringify(list);
        mergeLayers(list);
        expect(JSON.stringify(list)).to.equal(before);
      }),
    );
  });

  it("gives no prototype to anything", () => {
    const merged = mergeLayers([{ settings: JSON.parse('{"__proto__": {"polluted": 1}}') }]);
    expect(({} as Settings).polluted).to.equal(undefined);
    expect(Object.getPrototypeOf(merged)).to.equal(Object.prototype);
  });

  it("changes nothing when the strongest layer says again what stands", () => {
    fc.assert(
      fc.property(layers, (list) => {
        const merged = mergeLayers(list);
        expect(sameJson(mergeLayers([...list, { settings: merged }]), merged)).to.equal(true);
      }),
    );
  });
});

describe("explaining merged settings", () => {
  it("names an origin for exactly the leaves that the merge has", () => {
    fc.assert(
      fc.property(layers, (list) => {
        const explained = Object.keys(explain(list));
        expect(explained.sort()).to.deep.equal(leafPointers(mergeLayers(list)).sort());
      }),
    );
  });

  it("names for each value a layer that has this very value there, and no stronger one does", () => {
    fc.assert(
      fc.property(layers, (list) => {
        const merged = mergeLayers(list);
        for (const [pointer, { layer, version }] of Object.entries(explain(list))) {
          const at = list.findIndex((one) => one.layer === layer && one.version === version);
          const value = valueAt(merged, pointer);
          const said = valueAt(list[at]?.settings, pointer);
          if (isObject(value)) expect(isObject(said), pointer).to.equal(true);
          else expect(said, pointer).to.deep.equal(value);
          if (isObject(value)) continue;
          for (const stronger of list.slice(at + 1)) expect(valueAt(stronger.settings, pointer)).to.equal(undefined);
        }
      }),
    );
  });

  it("says so where the value is a candidate's", () => {
    const explained = explain([
      { layer: "platform", version: 1, settings: { a: 1 } },
      { layer: "type:t", version: 2, settings: { b: 1 }, candidate: true },
    ]);
    expect(explained).to.deep.equal({
      "/a": { layer: "platform", version: 1 },
      "/b": { layer: "type:t", version: 2, candidate: true },
    });
  });
});

describe("the etag of settings", () => {
  it("does not depend on the order of members", () => {
    expect(etagOf({ a: 1, b: { c: 2, d: 3 } })).to.equal(etagOf({ b: { d: 3, c: 2 }, a: 1 }));
  });

  it("differs exactly where the content differs", () => {
    fc.assert(
      fc.property(settings, settings, (a, b) => {
        expect(etagOf(a) === etagOf(b)).to.equal(sameJson(a, b));
      }),
    );
  });

  it("is the same in every process: a fixed value for a fixed content", () => {
    expect(etagOf({ b: [1, 2.5, "é"], a: null })).to.equal("If3a7rxshPG1ViTEEzaw5S");
  });
});
