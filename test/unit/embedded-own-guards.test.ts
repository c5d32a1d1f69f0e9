import { expect } from "chai";
import { designDocuments } from "../../config-db/design/index.ts";
import { ownGuard } from "../../config-db/embedded/own-guards.ts";
import { compile } from "../../config-db/embedded/sandbox.ts";
import { databases } from "../../config-db/names.ts";

const guardOf = (database: "config" | "registry") => {
  const text = designDocuments[databases[database]][0]?.validate_doc_update;
  if (text === undefined) throw new Error(`the ${database} database has no guard`);
  return text;
};

describe("Muster's own guards", () => {
  const options = { timeoutMs: 1_000 };
  const at = "2026-01-02T03:04:05.678Z";
  const layer = { _id: "layer:type:t", kind: "layer", layer: "type:t", settings: {}, schemaVersion: 1, version: 1 };
  const whole = { ...layer, changedBy: "x", changedAt: at, site: "here" };
  const docs: unknown[] = [
    whole,
    layer,
    { ...whole, settings: [] },
    { ...whole, _id: "layer:type:other" },
    { ...whole, schemaVersion: 2, settings: 5 },
    { _id: "layer:type:t", _deleted: true },
    { _id: "nonsense" },
    { _id: "_design/x" },
    {},
  ];

  for (const database of ["config", "registry"] as const) {
    it(`judge in the ${database} database as they do in the sandbox`, () => {
      const calls = docs.map((doc) => [doc, null, { name: null, roles: [] }, {}]);
      const own = ownGuard(guardOf(database))?.call(calls, options);
      const inside = compile(guardOf(database)).call(calls, options);
      expect(own?.map(({ kind }) => kind)).to.deep.equal(inside.map(({ kind }) => kind));
      expect(own?.map((outcome) => "thrown" in outcome && outcome.thrown)).to.deep.equal(
        inside.map((outcome) => "thrown" in outcome && outcome.thrown),
      );
      expect(inside.map(({ kind }) => kind)).to.include.members(["returned", "threw"]);
    });
  }

  it("are known by their whole text: all else is a stranger's", () => {
    expect(ownGuard(`${guardOf("config")} `)).to.equal(undefined);
    expect(ownGuard("function () { while (true); }")).to.equal(undefined);
  });
});
