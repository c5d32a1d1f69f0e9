import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { settingsTypes } from "../../clients/cli/settings-types.ts";
import { compileSchema } from "../../coordinator/config/schema.ts";

type Schema = Record<string, unknown>;

describe("the types of a schema", function () {
  this.timeout(60_000);
  let directory: string;
  const modules: { file: string; schema: Schema; program: string }[] = [];
  const faults = new Map<string, string>();

  const typesOf = (schema: Schema) => settingsTypes(schema, "S", "/** Made. */");

  /** A module of the types of `schema` and `program`; all are compiled at once. @returns its name among `faults`. */
  function module(schema: Schema, program: string): string {
    const file = `m${modules.length}.ts`;
    modules.push({ file, schema, program });
    return file;
  }

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-types-"));
    for (const { file, schema, program } of modules) {
      const types = await typesOf(schema).catch((error: Error) => faults.set(file, error.message) && "");
      await writeFile(join(directory, file), `${types}\n${program}\n`);
    }
    const compiler = new URL("../../node_modules/typescript/bin/tsc", import.meta.url).pathname;
    const options = [
      "--ignoreConfig",
      "--noEmit",
      "--strict",
      "--target",
      "es2022",
      "--module",
      "esnext",
      "--types",
      "",
    ];
    const files = modules.map(({ file }) => file);
    const run = promisify(execFile)(process.execPath, [compiler, ...options, ...files], { cwd: directory });
    const told = await run.then(
      () => "",
      ({ stdout }: { stdout: string }) => stdout,
    );
    for (const line of told.split("\n").filter((text) => text !== "")) {
      const file = line.split("(")[0] ?? "";
      faults.set(file, `${faults.get(file) ?? ""}${line}\n`);
    }
  });
  after(() => rm(directory, { recursive: true }));

  const end = "*/ export const pwn = 1; /*";
  const hostile: [string, Schema][] = [
    ["a tsType", { properties: { a: { tsType: "string; }; export const pwn = 1; interface X {" } } }],
    ["a tsType that opens a comment", { properties: { a: { tsType: "any /*" } } }],
    ["tsEnumNames", { properties: { a: { enum: ["x"], tsEnumNames: ["x = 1 }; export const pwn = 1; enum Y { z"] } } }],
    [
      "a description",
      { description: `${end} ${end}`, properties: { a: { type: "string", description: `**//${end}` } } },
    ],
    ["a title", { properties: { a: { type: "object", title: `X {} ${end} export const pwn = 1; interface Y` } } }],
    ["a name", { properties: { [`a: 1 } ${end} export const pwn = 1; interface Y { "`]: { type: "string" } } }],
    ["a pattern", { patternProperties: { [`a|${end}|${end}`]: { type: "string", description: "x" } } }],
    ["a value", { properties: { a: { enum: [`"; } ${end} export const pwn = 1;`, "`", "\u2028"] } } }],
    ["a constant", { properties: { a: { const: { [`" ${end}`]: [`" ${end}`] } } } }],
    [
      "a definition's name",
      {
        $defs: { [`X ${end}`]: { type: "object" } },
        properties: {
          a: { $ref: `#/$defs/X%20${encodeURIComponent(end).replaceAll("%2F", "~1").replaceAll("*", "%2A")}` },
        },
      },
    ],
    ["an $id", { $id: `X ${end}`, properties: { a: { $id: `Y {} ${end}`, type: "object" } } }],
    [
      "extends",
      { properties: { a: { type: "object", extends: [{ tsType: "X {} export const pwn = 1; interface Y" }] } } },
    ],
  ];
  for (const [what, schema] of hostile) {
    const file = module(schema, 'declare const s: S; void s; export const pwn = "free";');
    it(`are nothing but types, whatever is in ${what}`, () => {
      expect(faults.get(file)).to.equal(undefined);
    });
  }

  const D = { type: "object", properties: { q: { type: "number", default: 1 } } };
  const filled: [string, Schema, Schema, string][] = [
    ["properties", { properties: { o: D } }, { o: {} }, "s.o!.q"],
    ["a reference", { $defs: { D }, properties: { o: { $ref: "#/$defs/D" } } }, { o: {} }, "s.o!.q"],
    ["allOf", { allOf: [D] }, {}, "s.q"],
    ["a reference in allOf", { $defs: { D }, allOf: [{ $ref: "#/$defs/D" }] }, {}, "s.q"],
    [
      "a reference beside others",
      { $defs: { D }, properties: { o: { $ref: "#/$defs/D", description: "it" } } },
      { o: {} },
      "s.o!.q",
    ],
    ["additionalProperties", { additionalProperties: D }, { o: {} }, "s.o!.q"],
    ["patternProperties", { patternProperties: { "^o": D } }, { o: {} }, "s.o!.q"],
    ["items", { properties: { l: { type: "array", items: D } } }, { l: [{}] }, "s.l![0]!.q"],
    ["prefixItems", { properties: { l: { type: "array", prefixItems: [D], minItems: 1 } } }, { l: [{}] }, "s.l![0].q"],
    ["an $anchor", { $defs: { D: { $anchor: "aa", ...D } }, properties: { o: { $ref: "#aa" } } }, { o: {} }, "s.o!.q"],
    [
      "a $dynamicAnchor",
      { ...D, $dynamicAnchor: "aa", properties: { ...D.properties, o: { $dynamicRef: "#aa" } } },
      { o: {} },
      "s.o!.q",
    ],
    ["itself", { ...D, properties: { ...D.properties, o: { $ref: "#" } } }, { o: { o: {} } }, "s.o!.o!.q"],
    ["definitions", { definitions: { D }, properties: { o: { $ref: "#/definitions/D" } } }, { o: {} }, "s.o!.q"],
    [
      "a schema of its own",
      {
        $defs: { E: { $id: "http://e/", $defs: { D }, properties: { i: { $ref: "#/$defs/D" } } } },
        properties: { o: { $ref: "#/$defs/E" } },
      },
      { o: { i: {} } },
      "s.o!.i!.q",
    ],
  ];
  for (const [where, schema, settings, place] of filled) {
    const errors = compileSchema(schema).check(settings);
    const text = JSON.stringify(settings);
    const file = module(schema, `export const filled: S = ${text}; export const read = (s: S): number => ${place};`);
    it(`promise a default where the coordinator fills it in: in ${where}`, () => {
      expect(errors).to.deep.equal([]);
      expect(text).to.contain('"q":1');
      expect(faults.get(file)).to.equal(undefined);
    });
  }

  const notFilled: [string, Schema][] = [
    ["anyOf", { properties: { o: { anyOf: [D, { type: "string" }] } } }],
    ["oneOf", { properties: { o: { oneOf: [D, { type: "string" }] } } }],
    [
      "a reference in anyOf",
      { $defs: { D }, properties: { o: { anyOf: [{ $ref: "#/$defs/D" }, { type: "string" }] } } },
    ],
    [
      "a reference in anyOf that is filled in elsewhere",
      {
        $defs: { D },
        properties: { p: { $ref: "#/$defs/D" }, o: { anyOf: [{ $ref: "#/$defs/D" }, { type: "string" }] } },
      },
    ],
  ];
  for (const [where, schema] of notFilled) {
    const file = module(schema, "export const filled: S = { o: {} };");
    it(`promise no default where none is filled in: in ${where}`, () => {
      const settings = { o: {} };
      expect(compileSchema(schema).check(settings)).to.deep.equal([]);
      expect(settings).to.deep.equal({ o: {} });
      expect(faults.get(file)).to.equal(undefined);
    });
  }

  const untyped = module({ properties: { x: { default: 2 } } }, 'export const s: S = { x: "two" };');
  it("promise no type of a setting for its default alone", () => {
    expect(faults.get(untyped)).to.equal(undefined);
  });

  const mixed = module(
    { properties: { a: { type: "string" } }, additionalProperties: { type: "number" } },
    'export const s: S = { a: "x", b: 1 };',
  );
  it("compile where some properties have names and all others a type", () => {
    expect(faults.get(mixed)).to.equal(undefined);
  });

  it("are as many lists as there are, not one for each length, where a list may be long", async () => {
    const long = { type: "array", items: { type: "number" }, minItems: 10_000_000 };
    expect(await typesOf({ properties: { long } })).to.contain("long?: number[]");
  });

  const node = { $dynamicAnchor: "n", type: "object" };
  const properties = { o: { $dynamicRef: "#n" } };
  for (const [what, schema] of [
    ["may mean several schemas", { $defs: { A: { ...node, $id: "http://a/" } }, ...node, properties }],
    ["means a part of the schema", { $defs: { A: node }, properties }],
  ] as const) {
    it(`are refused for a dynamic reference that ${what}`, async () => {
      const error = await typesOf(schema).catch((thrown: unknown) => thrown);
      expect(error).to.be.instanceOf(Error).with.property("message").that.contains("$dynamicRef #n");
    });
  }
});
