import { expect } from "chai";
import { CouchError, toCouchError } from "../../config-db/embedded/couch-error.ts";
import { parseBody, parseJson } from "../../config-db/embedded/json.ts";
import { limits } from "../../config-db/embedded/limits.ts";
import { Query } from "../../config-db/embedded/query.ts";

const reasonOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof CouchError) return `${error.status} ${error.error}`;
    throw error;
  }
  return "none";
};

describe("JSON from outside", () => {
  it("is taken up to the limit of nesting and refused one level deeper", () => {
    const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
    expect(reasonOf(() => parseJson(nested(limits.depth)))).to.equal("none");
    expect(reasonOf(() => parseJson(nested(limits.depth + 1)))).to.equal("400 bad_request");
    expect(reasonOf(() => parseJson(nested(100_000)))).to.equal("400 bad_request");
  });

  it("is refused where a string is no Unicode, as a value or as a name", () => {
    for (const text of ['"\\ud800"', '{"\\udc00":1}', '["\\ud83dx"]']) {
      expect(
        reasonOf(() => parseJson(text)),
        text,
      ).to.equal("400 bad_request");
    }
    expect(parseJson('"\\ud83d\\ude00"')).to.equal("😀");
    expect(reasonOf(() => parseBody(Buffer.from([0x22, 0xff, 0x22])))).to.equal("400 bad_request");
  });

  it("is refused where it has a member that PouchDB would drop", () => {
    for (const text of ['{"__proto__":1}', '{"a":[{"\\u005f_proto__":1}]}']) {
      expect(
        reasonOf(() => parseJson(text)),
        text,
      ).to.equal("400 bad_request");
    }
    expect(parseJson('{"a":"__proto__"}')).to.deep.equal({ a: "__proto__" });
  });
});

describe("a request's parameters", () => {
  it("are read by their type, and refused where they are of another", () => {
    const query = new Query("a=true&n=12&j=%22x%22&list=%5B1%5D&bad=x&neg=-1");
    expect([query.flag("a"), query.count("n"), query.json("j"), query.array("list")]).to.deep.equal([
      true,
      12,
      "x",
      [1],
    ]);
    expect([query.flag("none"), query.count("none"), query.json("none"), query.array("none")]).to.deep.equal(
      Array(4).fill(undefined),
    );
    expect(reasonOf(() => query.flag("bad"))).to.equal("400 query_parse_error");
    expect(reasonOf(() => query.count("neg"))).to.equal("400 query_parse_error");
    expect(reasonOf(() => query.json("bad"))).to.equal("400 bad_request");
    expect(reasonOf(() => query.array("n"))).to.equal("400 bad_request");
  });

  it("count more from the body than from the URL, and are JSON there already", () => {
    const query = new Query("limit=1&key=%22a%22").with({ limit: 2, keys: ["x"], descending: true });
    expect([query.count("limit"), query.array("keys"), query.flag("descending"), query.json("key")]).to.deep.equal([
      2,
      ["x"],
      true,
      "a",
    ]);
  });
});

describe("a fault of PouchDB", () => {
  it("is the client's where PouchDB says so, the disk's where it is full, and the server's otherwise", () => {
    const told = (error: unknown) => {
      const { status, error: word } = toCouchError(error);
      return [status, word];
    };
    expect(told({ status: 404, name: "not_found", message: "missing" })).to.deep.equal([404, "not_found"]);
    expect(told({ status: 409, name: "conflict", message: "x" })).to.deep.equal([409, "conflict"]);
    expect(told(new Error("IO error: No space left on device"))).to.deep.equal([507, "insufficient_storage"]);
    expect(told(new TypeError("x is not a function"))).to.deep.equal([500, "internal_server_error"]);
    expect(told(undefined)).to.deep.equal([500, "internal_server_error"]);
  });
});
