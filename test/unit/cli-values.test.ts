import { expect } from "chai";
import {
  parseAssignment,
  parseBody,
  parseDuration,
  parseTarget,
  targetText,
  toPatch,
} from "../../clients/cli/values.ts";

describe("an assignment on the command line", () => {
  const value = (text: string) => parseAssignment(text).value;

  it("takes JSON as JSON and all else as text", () => {
    expect(value("a=500")).to.equal(500);
    expect(value("a=-0.5")).to.equal(-0.5);
    expect(value("a=true")).to.equal(true);
    expect(value("a=null")).to.equal(null);
    expect(value("a=slow")).to.equal("slow");
    expect(value("a=")).to.equal("");
    expect(value("a=x=y")).to.equal("x=y");
    expect(value('a="500"')).to.equal("500");
    expect(value('a={"b":[1]}')).to.deep.equal({ b: [1] });
    expect(value("a=007")).to.equal("007");
    expect(value("a=2026-11-22")).to.equal("2026-11-22");
  });

  it("refuses a number that would be stored as another", () => {
    expect(() => value("version=1.10")).to.throw(/would be stored as 1\.1: .*'"1\.10"' for the text/);
    expect(() => value("id=12345678901234567890")).to.throw("would be stored as 12345678901234567000");
    expect(() => value("rate=1e3")).to.throw("would be stored as 1000");
  });

  it("refuses what begins as JSON and is none", () => {
    for (const text of ['a={"b":', "a=[1,", 'a="b'])
      expect(() => value(text), text).to.throw("looks like JSON but is not");
  });

  it("names a place by dots or by a JSON Pointer", () => {
    expect(parseAssignment("retry.maxMs=1").path).to.deep.equal(["retry", "maxMs"]);
    expect(parseAssignment("/retry/max.ms=1").path).to.deep.equal(["retry", "max.ms"]);
    expect(parseAssignment("/a~1b/c~0d=1").path).to.deep.equal(["a/b", "c~d"]);
  });

  it("refuses a place that is none", () => {
    for (const text of ["a", "=1", "a..b=1", ".a=1", "/=1"]) {
      expect(() => parseAssignment(text), text).to.throw(/is no assignment|has an empty part/);
    }
    expect(() => parseAssignment("__proto__.x=1")).to.throw('"__proto__" cannot be a setting\'s name');
  });
});

describe("several assignments", () => {
  const patch = (...texts: string[]) => toPatch(texts.map(parseAssignment));

  it("make one merge patch", () => {
    expect(patch("a.b=1", "a.c=2", "d=null")).to.deep.equal({ a: { b: 1, c: 2 }, d: null });
  });

  it("are refused when they contradict each other", () => {
    for (const pair of [
      ["a=1", "a=2"],
      ["a=1", "a.b=2"],
      ["a.b=2", "a=1"],
      ['a={"x":1}', "a.b=2"],
      ["a=null", "a.b=2"],
    ]) {
      expect(() => patch(...pair), pair.join(" ")).to.throw("contradict each other");
    }
    expect(patch("a.b=1", "ab=2")).to.deep.equal({ a: { b: 1 }, ab: 2 });
  });
});

describe("a message's body on the command line", () => {
  it("is nothing, pairs, or one JSON value", () => {
    expect(parseBody([])).to.equal(undefined);
    expect(parseBody(["offset=0.5", "mode=fast"])).to.deep.equal({ offset: 0.5, mode: "fast" });
    expect(parseBody(['{"offset": "a=b"}'])).to.deep.equal({ offset: "a=b" });
    expect(parseBody(["42"])).to.equal(42);
    expect(parseBody(["hello"])).to.equal("hello");
  });

  it("is refused when pairs and other words are mixed", () => {
    expect(() => parseBody(["a=1", "b"])).to.throw('"b" is no key=value');
  });
});

describe("a target on the command line", () => {
  it("is a component, all or one of a type, or all", () => {
    expect(parseTarget("collector-1")).to.deep.equal({ component: "collector-1" });
    expect(parseTarget("component:collector-1")).to.deep.equal({ component: "collector-1" });
    expect(parseTarget("type:collector")).to.deep.equal({ type: "collector" });
    expect(parseTarget("any:collector")).to.deep.equal({ any: "collector" });
    expect(parseTarget("all")).to.deep.equal({ all: true });
  });

  it("reads back as it was written", () => {
    for (const text of ["collector-1", "type:collector", "any:collector", "all"])
      expect(targetText(parseTarget(text))).to.equal(text);
  });

  it("is refused when it is none, with the right forms", () => {
    for (const text of ["", "Type:x", "typ:x", "type:", "type:a:b", "a b"]) {
      expect(() => parseTarget(text), text).to.throw("is no target: write a component's id");
    }
  });
});

describe("a duration on the command line", () => {
  it("is a number and its unit, in milliseconds", () => {
    expect(["250ms", "30s", "1.5s", "5m", "5min", "2h", "1d"].map(parseDuration)).to.deep.equal([
      250, 30_000, 1_500, 300_000, 300_000, 7_200_000, 86_400_000,
    ]);
  });

  it("is refused without a unit, at zero, and beyond counting", () => {
    for (const text of ["30", "0s", "-1s", "s", "1w", "99999999999999999d"]) {
      expect(() => parseDuration(text), text).to.throw("is no duration");
    }
  });
});
