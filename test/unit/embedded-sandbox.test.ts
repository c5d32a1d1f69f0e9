import { execFileSync } from "node:child_process";
import { expect } from "chai";
import { CouchError } from "../../config-db/embedded/couch-error.ts";
import { compile } from "../../config-db/embedded/sandbox.ts";

const call = (source: string, ...calls: unknown[][]) => compile(source).call(calls, { timeoutMs: 50 });

describe("a design function", () => {
  it("returns, emits and throws across the border as JSON", () => {
    const source =
      "function (doc) { if (doc.refuse) throw({ forbidden: doc.refuse }); emit(doc.k); emit([doc.k], 1); return doc.k > 1; }";
    expect(call(source, [{ k: 2 }], [{ refuse: "no" }])).to.deep.equal([
      {
        kind: "returned",
        value: true,
        emitted: [
          [2, null],
          [[2], 1],
        ],
      },
      { kind: "threw", thrown: { forbidden: "no" }, message: "[object Object]" },
    ]);
  });

  it("may be written in any way that is one function", () => {
    for (const source of [
      "function(){return 1};",
      "() => 1",
      "  function named () { return 1 } ; ",
      "function () { return 1 } // so",
    ]) {
      expect(call(source, [])[0], source).to.include({ value: 1 });
    }
  });

  it("is refused where it is none", () => {
    for (const source of ["", "5", "function (", "}); process.exit(1); ({", "throw 1"]) {
      expect(() => compile(source), source)
        .to.throw(CouchError)
        .with.property("error", "compilation_error");
    }
  });

  it("that never ends is stopped, with those behind it in its batch; those before it count", () => {
    const source = "function (loop) { while (loop); return 1; }";
    const kinds = call(source, [false], [true], [false]).map((outcome) => outcome.kind);
    expect(kinds).to.deep.equal(["returned", "timedOut", "timedOut"]);
    expect(call(source, [false])[0]).to.include({ kind: "returned" });
  });

  // In a process of its own: where something uses AsyncLocalStorage, as clients do and the store does not, Node 20 ends
  // itself when a script is stopped in a promise's reaction.
  it("that never ends in a promise is stopped too", () => {
    const sandbox = new URL("../../config-db/embedded/sandbox.ts", import.meta.url).href;
    const source = "function () { Promise.resolve().then(function () { while (true); }); return 1; }";
    const script = `import { compile } from ${JSON.stringify(sandbox)};
      const outcomes = compile(${JSON.stringify(source)}).call([[]], { timeoutMs: 50 });
      process.stdout.write(String(outcomes.length));`;
    const node = ["--import", "tsx", "--input-type=module", "--eval", script];
    expect(execFileSync(process.execPath, node, { encoding: "utf8", timeout: 10_000 })).to.equal("1");
  });

  it("keeps no hold on the next call's arguments or on this process", () => {
    const source =
      "function (doc) { doc.seen = (doc.seen || 0) + 1; return [doc.seen, typeof process, typeof globalThis.process]; }";
    const shared = {};
    const outcomes = call(source, [shared], [shared]);
    for (const outcome of outcomes) expect(outcome).to.deep.include({ value: [1, "undefined", "undefined"] });
    expect(shared).to.deep.equal({});
  });
});
