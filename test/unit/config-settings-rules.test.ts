import { expect } from "chai";
import { isMusterError } from "../../config-db/errors.ts";
import { checkSettings, settingsErrors } from "../../coordinator/config/settings-rules.ts";

const nested = (levels: number) => JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`);

describe("what settings may not contain", () => {
  it("takes ordinary settings", () => {
    const settings = {
      a: 1,
      "b.c": [{ d: null }, "é😀"],
      constructor: "x",
      deep: nested(60),
      ref: { $secret: "db-password" },
    };
    expect(settingsErrors(settings)).to.deep.equal([]);
  });

  const refused: [string, unknown, string, string][] = [
    ["what is no object", [1], "", "type"],
    ["64 levels and one", nested(65), "/a".repeat(64), "depth"],
    ["10,000 levels", nested(10_000), "/a".repeat(64), "depth"],
    [
      "10,000 levels of arrays",
      { a: JSON.parse("[".repeat(10_000) + "]".repeat(10_000)) },
      `/a${"/0".repeat(63)}`,
      "depth",
    ],
    ["a prototype", JSON.parse('{"a": {"__proto__": {"x": 1}}}'), "/a/__proto__", "key"],
    ["_id at the top", { _id: "x" }, "/_id", "key"],
    ["any _ at the top", { _attachments: {} }, "/_attachments", "key"],
    ["a key with $ that means nothing", { a: { $where: "1" } }, "/a/$where", "key"],
    ["a secret with company", { a: { $secret: "x", b: 1 } }, "/a/$secret", "key"],
    ["a secret that is no name", { a: { $secret: 1 } }, "/a/$secret", "key"],
    ["a secret in place of all settings", { $secret: "x" }, "/$secret", "key"],
    ["half of a surrogate pair", { a: ["\ud800"] }, "/a/0", "json"],
    ["half of a surrogate pair in a key", { a: { "\udc00": 1 } }, "/a/\ufffd", "key"],
    ["a number beyond a double", JSON.parse('{"a": 1e400}'), "/a", "json"],
    ["more than a mebibyte", { a: "x".repeat(1024 * 1024) }, "", "size"],
  ];
  for (const [what, settings, pointer, rule] of refused) {
    it(`refuses ${what}`, () => {
      expect(settingsErrors(settings).map((error) => [error.pointer, error.rule])).to.deep.equal([[pointer, rule]]);
    });
  }

  it("takes _ below the top, where CouchDB keeps nothing", () => {
    expect(settingsErrors({ a: { _id: 1 } })).to.deep.equal([]);
  });

  it("lets a patch take a secret away", () => {
    expect(settingsErrors({ a: { $secret: null, b: 1 } }, { patch: true })).to.deep.equal([]);
    expect(settingsErrors({ a: { $secret: null, b: 1 } })).to.have.length(1);
  });

  it("refuses a secret that a patch takes away at the top, where none can stand", () => {
    expect(settingsErrors({ $secret: null }, { patch: true }).map(({ pointer }) => pointer)).to.deep.equal([
      "/$secret",
    ]);
  });

  it("throws with pointers into the request", () => {
    expect(() => checkSettings({ a: { $x: 1 } }))
      .to.throw()
      .that.satisfies(
        (error: unknown) => isMusterError(error, "invalid-request") && error.errors?.[0]?.pointer === "/settings/a/$x",
      );
  });
});
