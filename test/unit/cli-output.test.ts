import { expect } from "chai";
import fc from "fast-check";
import stringWidth from "string-width";
import { changesBetween, changeText, validationText } from "../../clients/cli/changes.ts";
import { exitCodeMeanings, exitCodeOf, exitCodes } from "../../clients/cli/exit-codes.ts";
import { describeFailure, problemOf } from "../../clients/cli/failure.ts";
import { coloredJson, jsonText, plain, short, style } from "../../clients/cli/style.ts";
import { cut, duration, moment, table } from "../../clients/cli/table.ts";
import { wantsColor } from "../../clients/cli/terminal.ts";
import { type ErrorCode, errorCodes, MusterError } from "../../config-db/errors.ts";
import { mergePatch } from "../../coordinator/config/merge.ts";

const none = style(false);
const colors = style(true);
const esc = "\u001b";

describe("a table", () => {
  const columns = [
    { title: "ID", of: (row: { id: string }) => row.id },
    { title: "N", of: (row: { n?: number }) => row.n, align: "right" as const },
    { title: "TAG", of: (row: { tag?: string }) => row.tag, optional: true },
  ];
  type Row = { id: string; n?: number; tag?: string };

  it("aligns its columns and shows an empty cell as a dash", () => {
    const rows: Row[] = [{ id: "a", n: 5 }, { id: "longer", n: 123 }, { id: "c" }];
    expect(table<Row>(columns, rows, none)).to.equal("ID        N\na         5\nlonger  123\nc         -");
  });

  it("shows an optional column when a row has it", () => {
    expect(
      table<Row>(
        columns,
        [
          { id: "a", n: 1, tag: "x" },
          { id: "b", n: 2 },
        ],
        none,
      ),
    ).to.equal("ID  N  TAG\na   1  x\nb   2  -");
  });

  it("leaves optional columns out that a narrow terminal would not show", () => {
    const rows: Row[] = [{ id: "a".repeat(20), n: 1, tag: "indoor" }];
    expect(table<Row>(columns, rows, none, 80)).to.contain("indoor");
    expect(table<Row>(columns, rows, none, 28)).to.not.contain("TAG");
  });

  it("counts wide characters as two", () => {
    const [, first, second] = table<Row>(
      columns,
      [
        { id: "温度", n: 1 },
        { id: "abcd", n: 1 },
      ],
      none,
    ).split("\n");
    expect(stringWidth(first ?? "")).to.equal(stringWidth(second ?? ""));
  });

  it("shows control characters of a cell, and does not send them to the terminal", () => {
    const text = table<Row>(columns, [{ id: `${esc}[2Jx\n\u009b`, n: 1 }], none);
    expect(text).to.contain("\\u001b[2Jx\\n\\u009b").and.not.to.contain(esc);
  });

  it("is cut to the terminal's width, and its colours end", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "grapheme", minLength: 0, maxLength: 40 }),
        fc.integer({ min: 5, max: 30 }),
        (text, width) => {
          const line = cut(`${colors.red(plain(text))}${colors.dim("the rest of it")}`, width);
          expect(stringWidth(line)).to.be.at.most(width);
          expect(line.lastIndexOf(`${esc}[`)).to.equal(
            Math.max(line.lastIndexOf(`${esc}[22m`), line.lastIndexOf(`${esc}[39m`)),
          );
        },
      ),
    );
  });
});

describe("times", () => {
  it("read as people say them", () => {
    expect([0, 850, 1_999, 2_000, 119_000, 3_600_000 * 5, 86_400_000 * 3].map((ms) => duration(ms))).to.deep.equal([
      "0 ms",
      "850 ms",
      "1999 ms",
      "2 s",
      "119 s",
      "5 h",
      "3 d",
    ]);
    expect(moment("2026-11-22T02:01:38.123Z")).to.equal("2026-11-22 02:01:38Z");
  });
});

describe("colours", () => {
  const screen = (isTTY: boolean) => ({ isTTY, hasColors: () => true }) as unknown as Parameters<typeof wantsColor>[0];

  it("are for terminals, and NO_COLOR and FORCE_COLOR decide before", () => {
    expect(wantsColor(screen(true), {})).to.equal(true);
    expect(wantsColor(screen(false), {})).to.equal(false);
    expect(wantsColor(screen(true), { NO_COLOR: "1" })).to.equal(false);
    expect(wantsColor(screen(true), { NO_COLOR: "" })).to.equal(true);
    expect(wantsColor(screen(false), { FORCE_COLOR: "1" })).to.equal(true);
    expect(wantsColor(screen(true), { FORCE_COLOR: "0" })).to.equal(false);
  });

  it("leave JSON the same text", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are control sequences
        const uncolored = coloredJson(value, colors).replaceAll(/\u001b\[\d+m/g, "");
        expect(JSON.parse(uncolored)).to.deep.equal(JSON.parse(JSON.stringify(value)));
        expect(coloredJson(value, none)).to.equal(jsonText(value, 2));
      }),
    );
  });
});

describe("changes between settings", () => {
  it("are the leaves that differ", () => {
    const before = { a: 1, b: { c: [1], d: 2 }, "x/y": 1 };
    expect(changesBetween(before, { a: 1, b: { c: [1, 2], e: 3 } })).to.deep.equal([
      { pointer: "/b/c", before: [1], after: [1, 2] },
      { pointer: "/b/d", before: 2 },
      { pointer: "/b/e", after: 3 },
      { pointer: "/x~1y", before: 1 },
    ]);
  });

  it("are none exactly when the settings are the same", () => {
    const settings = fc.dictionary(fc.string({ maxLength: 3 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 });
    fc.assert(
      fc.property(settings, settings, (before, patch) => {
        const after = mergePatch(before, patch);
        expect(changesBetween(before, before)).to.deep.equal([]);
        expect(changesBetween(before, after).length === 0).to.equal(JSON.stringify(before) === JSON.stringify(after));
      }),
    );
  });

  it("read with what was and what is", () => {
    expect(changeText({ pointer: "/a", before: 500, after: 250 }, none)).to.equal("~ /a = 500 → 250");
    expect(changeText({ pointer: "/a", after: "x" }, none)).to.equal('+ /a = "x"');
    expect(changeText({ pointer: "/a", before: 500 }, none)).to.equal("- /a was 500");
  });

  it("of components are told together when they are alike", () => {
    const diff = [{ op: "replace", path: "/samplingIntervalMs", value: 250 }];
    const components = Array.from({ length: 7 }, (_none, index) => ({ id: `c${index}`, diff, errors: [] }));
    expect(validationText({ valid: true, components }, none)).to.equal(
      "7 components would change: c0, c1, c2, c3, c4 and 2 more\n  ~ /samplingIntervalMs = 250",
    );
  });

  it("that would be refused name the fault and the component", () => {
    const errors = [{ pointer: "/samplingIntervalMs", rule: "minimum", message: "must be >= 100", value: 5 }];
    const text = validationText({ valid: false, components: [{ id: "c1", diff: [], errors }] }, none);
    expect(text)
      .to.contain("It would be refused: 1 fault")
      .and.to.contain("/samplingIntervalMs must be >= 100, got 5 (c1)");
  });
});

describe("an error", () => {
  it("is told with its places and what to do next", () => {
    const errors = [{ pointer: "/retry/maxMs", message: "must be <= 60000", value: 90_000, component: "collector-1" }];
    const text = describeFailure(new MusterError("refused", "type:collector is refused", { errors }), none);
    expect(text.split("\n")).to.deep.equal([
      "error: type:collector is refused (refused)",
      "  /retry/maxMs must be <= 60000, got 90000 (collector-1)",
      "next: Nothing was written. Correct it and try again.",
    ]);
  });

  it("shows twenty places and counts the rest", () => {
    const errors = Array.from({ length: 25 }, (_none, index) => ({ pointer: `/${index}`, message: "is wrong" }));
    const text = describeFailure(new MusterError("refused", "no", { errors }), none);
    expect(text).to.contain("/19 is wrong").and.to.contain("… and 5 more").and.not.to.contain("/20 is wrong");
  });

  it("does not send a component's control characters to the terminal", () => {
    expect(describeFailure(new MusterError("handler-failed", `bad ${esc}[2J`), none))
      .to.contain("\\u001b[2J")
      .and.not.to.contain(esc);
  });

  it("is the coordinator's own problem document for scripts, where it has one", () => {
    const told = { type: "urn:x", title: "t", status: 422, code: "refused", detail: "d" };
    expect(problemOf(new MusterError("refused", "d", { cause: told }))).to.equal(told);
    expect(problemOf(new MusterError("unreachable", "nobody")).code).to.equal("unreachable");
  });

  it("ends with an exit code that is documented, whatever its code", () => {
    const codes = (Object.keys(errorCodes) as ErrorCode[]).map((code) => exitCodeOf(code));
    for (const code of codes) expect(exitCodeMeanings).to.have.property(String(code));
    expect(exitCodeOf("not-found")).to.equal(exitCodes.notFound);
    expect(exitCodeOf("no-such-route")).to.equal(exitCodes.failed);
    expect(exitCodeOf("precondition-failed")).to.equal(exitCodes.conflict);
    expect(exitCodeOf("broker-unavailable")).to.equal(exitCodes.unreachable);
  });
});

describe("a value in a line", () => {
  it("is cut when it is long", () => {
    expect(short("x".repeat(100), 10)).to.equal(`"xxxxxxxx…`);
    expect(short({ a: 1 })).to.equal('{"a":1}');
  });
});
