import { randomBytes } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect } from "chai";
import fc from "fast-check";
import jsonpatch from "fast-json-patch";
import type { LayerName } from "../../config-db/names.ts";
import { canonicalJson, canonicalShared, etagOf } from "../../coordinator/config/etag.ts";
import { jsonPatch } from "../../coordinator/config/json-patch.ts";
import { compileSchema, schemaLimits } from "../../coordinator/config/schema.ts";
import { open, seal, sealedDigest } from "../../coordinator/config/sealing.ts";
import { isSelected } from "../../coordinator/config/selector.ts";
import { judgeCandidate } from "../../coordinator/config/staging.ts";
import { componentStatus } from "../../coordinator/config/status.ts";

const json = fc.jsonValue({ maxDepth: 3 });
const settings = fc.dictionary(
  fc.string({ maxLength: 5 }).filter((key) => key !== "__proto__"),
  json,
);

describe("the canonical form of shared settings", () => {
  it("is that of any settings", () => {
    fc.assert(fc.property(settings, (value) => void expect(canonicalShared(value)).to.equal(canonicalJson(value))));
  });
});

describe("a diff of settings", () => {
  it("makes the one of the other, and says nothing exactly where they have one etag", () => {
    const plain = fc
      .jsonValue({ maxDepth: 3, noUnicodeString: true })
      .filter((v) => !JSON.stringify(v).includes("__proto__"));
    const object = fc.dictionary(fc.constantFrom("a", "b", "c/d", "e~f"), plain);
    fc.assert(
      fc.property(object, object, (before, after) => {
        const diff = jsonPatch(before, after);
        const made = jsonpatch.applyPatch(structuredClone(before), structuredClone(diff)).newDocument;
        expect(etagOf(made)).to.equal(etagOf(after));
        expect(diff.length === 0).to.equal(etagOf(before) === etagOf(after));
      }),
    );
  });

  it("takes long lists that differ everywhere", () => {
    const list = (step: number) => ({ list: Array.from({ length: 50_000 }, (_, index) => index * step) });
    expect(jsonPatch(list(1), list(2)).length).to.equal(49_999);
  });
});

describe("a sealed value", () => {
  const key = randomBytes(32);

  it("opens under its key and name", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "grapheme" }),
        (value) => void expect(open(key, "a", seal(key, "a", value))).to.equal(value),
      ),
    );
  });

  it("does not open under another key or name, nor changed", () => {
    const sealed = seal(key, "a", "value");
    expect(open(randomBytes(32), "a", sealed)).to.equal(undefined);
    expect(open(key, "b", sealed)).to.equal(undefined);
    for (const part of ["iv", "tag", "ciphertext"] as const) {
      const bytes = Buffer.from(sealed[part], "base64");
      bytes[0] = (bytes[0] ?? 0) ^ 1;
      expect(open(key, "a", { ...sealed, [part]: bytes.toString("base64") }), part).to.equal(undefined);
    }
    expect(open(key, "a", { ...sealed, tag: sealed.tag.slice(0, 8) })).to.equal(undefined);
  });

  it("has another digest each time, so that an etag tells nothing of equal values", () => {
    expect(sealedDigest(seal(key, "a", "v"))).to.not.equal(sealedDigest(seal(key, "a", "v")));
  });
});

describe("a selector", () => {
  const layer: LayerName = "type:t";
  const component = { id: "c", site: "s1", tags: ["x", "y"] };

  it("is met by any entry of each list, and by every list", () => {
    expect(isSelected(layer, { tags: ["z", "y"] }, component)).to.equal(true);
    expect(isSelected(layer, { tags: ["z"] }, component)).to.equal(false);
    expect(isSelected(layer, { tags: ["x"], sites: ["s2"] }, component)).to.equal(false);
    expect(isSelected(layer, { sites: ["s1"], components: ["c"] }, component)).to.equal(true);
    expect(isSelected(layer, { sites: ["s1"] }, { id: "c" })).to.equal(false);
  });

  it("chooses by percentage the same everywhere: fixed names, fixed choice", () => {
    const chosen = Array.from({ length: 20 }, (_, n) => `c${n}`).filter((id) =>
      isSelected(layer, { percent: 30 }, { id }),
    );
    expect(chosen).to.deep.equal(["c2", "c14"]);
  });

  it("takes nobody at 0, all at 100, and the smaller share within the greater", () => {
    fc.assert(
      fc.property(fc.string(), fc.nat(100), fc.nat(100), (id, a, b) => {
        expect(isSelected(layer, { percent: 0 }, { id })).to.equal(false);
        expect(isSelected(layer, { percent: 100 }, { id })).to.equal(true);
        const [less, more] = [Math.min(a, b), Math.max(a, b)];
        if (isSelected(layer, { percent: less }, { id }))
          expect(isSelected(layer, { percent: more }, { id })).to.equal(true);
      }),
    );
  });
});

describe("the judgement of a candidate", () => {
  const status = (one: "applied" | "rejected" | "pending", reason?: string) => ({
    id: one,
    wanted: "e",
    status: one,
    ...(reason === undefined ? {} : { reason }),
  });
  const rules = { promoteWhen: { applied: 2 }, withdrawOnReject: true };

  it("promotes when enough applied and none rejected", () => {
    expect(judgeCandidate(rules, [status("applied"), status("pending")])).to.equal(undefined);
    expect(judgeCandidate(rules, [status("applied"), status("applied")])).to.deep.equal({ do: "promote" });
  });

  it("withdraws on a rejection, or waits where it is not to", () => {
    const statuses = [status("applied"), status("applied"), status("rejected", "no")];
    expect(judgeCandidate(rules, statuses)).to.deep.equal({ do: "withdraw", reason: "rejected rejected it: no" });
    expect(judgeCandidate({ promoteWhen: { applied: 1 } }, statuses)).to.equal(undefined);
  });

  it("does nothing by itself where nobody asked for it", () => {
    expect(judgeCandidate({}, [status("applied"), status("applied")])).to.equal(undefined);
  });
});

describe("the status of a component", () => {
  const component = (etag: string, said: "applied" | "rejected") =>
    ({ id: "c", configStatus: { etag, status: said, at: "2026-01-01T00:00:00Z" } }) as never;

  it("is what it said of the settings that it should have, and pending where it spoke of others", () => {
    expect(componentStatus(component("e", "applied"), "e").status).to.equal("applied");
    expect(componentStatus(component("e", "rejected"), "e").status).to.equal("rejected");
    expect(componentStatus(component("old", "applied"), "e").status).to.equal("pending");
    expect(componentStatus({ id: "c" } as never, "e")).to.deep.equal({ id: "c", wanted: "e", status: "pending" });
  });
});

describe("a compiled schema", () => {
  it("fills in defaults where they are missing, at every level", () => {
    const { check } = compileSchema({
      properties: { a: { default: 1 }, b: { type: "object", default: {}, properties: { c: { default: [2] } } } },
    });
    const given: Record<string, unknown> = { a: 0 };
    expect(check(given)).to.deep.equal([]);
    expect(given).to.deep.equal({ a: 0, b: { c: [2] } });
  });

  it("shares no default between those that it is filled in for", () => {
    const { check } = compileSchema({ properties: { a: { default: { n: 1 } } } });
    const [one, two]: Record<string, { n?: number }>[] = [{}, {}];
    check(one ?? {});
    check(two ?? {});
    if (one?.a !== undefined) one.a.n = 2;
    expect(two).to.deep.equal({ a: { n: 1 } });
  });

  it("tells an error below a setting that is named like a keyword", () => {
    const { check } = compileSchema({ properties: { oneOf: { type: "object", required: ["x"] } } });
    expect(check({ oneOf: {} }).map(({ pointer, rule }) => [pointer, rule])).to.deep.equal([["/oneOf", "required"]]);
  });

  it("sees nothing of what every object inherits", () => {
    const { check } = compileSchema({ properties: { constructor: { type: "string" } }, required: ["valueOf"] });
    expect(check({ a: 1 }).map(({ rule, message }) => [rule, message])).to.deep.equal([
      ["required", "must have required property 'valueOf'"],
    ]);
    expect(check({ valueOf: 1, constructor: 1 }).map(({ pointer }) => pointer)).to.deep.equal(["/constructor"]);
  });

  it("is stopped when references double its work at each step", () => {
    const $defs: Record<string, unknown> = { a30: { type: "object" } };
    for (let n = 0; n < 30; n++)
      $defs[`a${n}`] = { allOf: [{ $ref: `#/$defs/a${n + 1}` }, { $ref: `#/$defs/a${n + 1}` }] };
    const { check } = compileSchema({ $defs, $ref: "#/$defs/a0" });
    expect(check({ a: 1 }).map((error) => error.rule)).to.deep.equal(["time"]);
  });

  it("is not waited for again and again by what is checked at once, and is soon itself again", async () => {
    const { check } = compileSchema({ properties: { a: { pattern: "^(a+)+$" }, b: { default: 1 } } });
    const costly = { a: `${"a".repeat(40)}b` };
    const rules = () => check({ ...costly }).map(({ rule }) => rule);
    const startMs = performance.now();
    for (let n = 0; n < 10; n++) expect(rules()).to.deep.equal(["time"]);
    expect(performance.now() - startMs).to.be.lessThan(2 * schemaLimits.checkMs);
    await nextTurn();
    const cheap = { a: "aaa" };
    expect(check(cheap)).to.deep.equal([]);
    expect(cheap).to.deep.equal({ a: "aaa", b: 1 });
    const againMs = performance.now();
    expect(rules()).to.deep.equal(["time"]);
    expect(performance.now() - againMs).to.be.at.least(schemaLimits.checkMs * 0.9);
  }).timeout(10_000);
});
