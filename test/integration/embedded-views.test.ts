import { expect } from "chai";
import { describeStores, useStore } from "../support/embedded.ts";

describeStores("a view", (store) => {
  const views = {
    "by-kind": { map: "function (doc) { if (doc.kind) emit([doc.kind, doc.n], doc.n); }", reduce: "_sum" },
    ids: { map: "function (doc) { emit(doc._id); }" },
    count: { map: "function (doc) { emit(doc.kind, 1); }", reduce: "_count" },
    own: {
      map: "function (doc) { emit(doc.kind, doc.n); }",
      reduce: "function (keys, values) { return Math.max.apply(null, values); }",
    },
  };
  const filled = async () => {
    const db = await store.database();
    const docs = [1, 2, 3, 4].map((n) => ({ _id: `d${n}`, kind: n % 2 ? "odd" : "even", n }));
    await store.ask("POST", `/${db}/_bulk_docs`, { body: { docs: [...docs, { _id: "_design/v", views }] } });
    return db;
  };
  const query = async (db: string, view: string, parameters: Record<string, unknown> = {}) => {
    const text = Object.entries(parameters).map(
      ([name, value]) => `${name}=${encodeURIComponent(JSON.stringify(value))}`,
    );
    return (await store.ask("GET", `/${db}/_design/v/_view/${view}?${text.join("&")}`)).body;
  };

  it("lists what its function emits in the order of the keys", async () => {
    const db = await filled();
    const { rows, total_rows } = await query(db, "by-kind", { reduce: false });
    expect(total_rows).to.equal(4);
    expect(rows.map((row: { id: string }) => row.id)).to.deep.equal(["d2", "d4", "d1", "d3"]);
    expect(rows[0]).to.deep.equal({ id: "d2", key: ["even", 2], value: 2 });
  });

  it("follows every change", async () => {
    const db = await filled();
    expect((await query(db, "ids")).rows).to.have.lengthOf(4);
    const { _rev } = (await store.ask("GET", `/${db}/d1`)).body;
    await store.ask("DELETE", `/${db}/d1?rev=${_rev}`);
    await store.ask("PUT", `/${db}/d9`, { body: {} });
    expect((await query(db, "ids")).rows.map((row: { id: string }) => row.id)).to.deep.equal(["d2", "d3", "d4", "d9"]);
  });

  it("takes ranges, keys, pages, both directions and documents", async () => {
    const db = await filled();
    const ids = async (parameters: Record<string, unknown>) =>
      (await query(db, "ids", parameters)).rows.map((row: { id: string }) => row.id).join(" ");
    expect(await ids({ startkey: "d2", endkey: "d3" })).to.equal("d2 d3");
    expect(await ids({ startkey: "d2", endkey: "d3", inclusive_end: false })).to.equal("d2");
    expect(await ids({ descending: true, limit: 2 })).to.equal("d4 d3");
    expect(await ids({ skip: 3 })).to.equal("d4");
    expect(await ids({ key: "d3" })).to.equal("d3");
    expect(await ids({ keys: ["d3", "none", "d1"] })).to.equal("d3 d1");
    const kinds = await query(db, "by-kind", { reduce: false, startkey: ["odd"], endkey: ["odd", {}] });
    expect(kinds.rows).to.have.lengthOf(2);
    const posted = await store.ask("POST", `/${db}/_design/v/_view/ids`, {
      body: { keys: ["d2"], include_docs: true },
    });
    expect(posted.body.rows[0].doc).to.include({ _id: "d2", n: 2 });
  });

  it("reduces all, by group and by group level", async () => {
    const db = await filled();
    expect((await query(db, "by-kind")).rows).to.deep.equal([{ key: null, value: 10 }]);
    expect((await query(db, "by-kind", { group_level: 1 })).rows).to.deep.equal([
      { key: ["even"], value: 6 },
      { key: ["odd"], value: 4 },
    ]);
    expect((await query(db, "count", { group: true })).rows).to.deep.equal([
      { key: "even", value: 2 },
      { key: "odd", value: 2 },
    ]);
    expect((await query(db, "own")).rows).to.deep.equal([{ key: null, value: 4 }]);
  });

  it("is missing where there is none, and refused where its parameters make no sense", async () => {
    const db = await filled();
    const cases: [string, number][] = [
      ["_design/v/_view/none", 404],
      ["_design/none/_view/ids", 404],
      ["_design/v/_view/ids?limit=-1", 400],
      ["_design/v/_view/ids?group=true", 400],
      ["_design/v/_view/ids?reduce=true", 400],
      ["_design/v/_view/by-kind?include_docs=true", 400],
      ["_design/v/_view/ids?startkey=unquoted", 400],
    ];
    for (const [path, status] of cases)
      expect((await store.ask("GET", `/${db}/${path}`)).status, path).to.equal(status);
    const broken = await store.ask("PUT", `/${db}/_design/broken`, { body: { views: { x: { map: "function (" } } } });
    expect([broken.status, broken.body.error]).to.deep.equal([400, "compilation_error"]);
  });
});

describeStores("_find", (store) => {
  const filled = async () => {
    const db = await store.database();
    const docs = Array.from({ length: 60 }, (_, n) => ({
      _id: `d${String(n).padStart(2, "0")}`,
      n,
      even: n % 2 === 0,
    }));
    await store.ask("POST", `/${db}/_bulk_docs`, { body: { docs } });
    return db;
  };

  it("selects, sorts by an index, picks fields and pages", async () => {
    const db = await filled();
    const find = async (body: object) => (await store.ask("POST", `/${db}/_find`, { body })).body;
    expect((await find({ selector: { n: { $lt: 3 } } })).docs.map((doc: { n: number }) => doc.n)).to.deep.equal([
      0, 1, 2,
    ]);
    expect((await find({ selector: { even: true } })).docs).to.have.lengthOf(25);
    const unsorted = await store.ask("POST", `/${db}/_find`, { body: { selector: { n: { $gt: 1 } }, sort: ["n"] } });
    expect([unsorted.status, unsorted.body.error]).to.deep.equal([400, "no_usable_index"]);
    const made = await store.ask("POST", `/${db}/_index`, {
      body: { index: { fields: ["n"] }, ddoc: "idx", name: "by-n" },
    });
    expect(made.body).to.deep.equal({ result: "created", id: "_design/idx", name: "by-n" });
    const sorted = await find({ selector: { n: { $gt: 55 } }, sort: [{ n: "desc" }], fields: ["n"] });
    expect(sorted.docs).to.deep.equal([{ n: 59 }, { n: 58 }, { n: 57 }, { n: 56 }]);
    const seen: number[] = [];
    let bookmark: string | undefined;
    for (;;) {
      const page = await find({ selector: { n: { $gte: 0 } }, limit: 25, ...(bookmark !== undefined && { bookmark }) });
      if (page.docs.length === 0) break;
      seen.push(...page.docs.map((doc: { n: number }) => doc.n));
      bookmark = page.bookmark;
    }
    expect(seen).to.have.lengthOf(60);
    expect(new Set(seen).size).to.equal(60);
  });

  it("lists its indexes and deletes them", async () => {
    const db = await filled();
    await store.ask("POST", `/${db}/_index`, { body: { index: { fields: ["n"] }, ddoc: "idx", name: "by-n" } });
    const names = async () =>
      (await store.ask("GET", `/${db}/_index`)).body.indexes.map((index: { name: string }) => index.name);
    expect(await names()).to.deep.equal(["_all_docs", "by-n"]);
    expect((await store.ask("DELETE", `/${db}/_index/idx/json/by-n`)).body).to.deep.equal({ ok: true });
    expect(await names()).to.deep.equal(["_all_docs"]);
    expect((await store.ask("DELETE", `/${db}/_index/idx/json/by-n`)).status).to.equal(404);
  });

  it("refuses what is no query", async () => {
    const db = await filled();
    for (const body of [
      {},
      { selector: 5 },
      { selector: { n: { $none: 1 } } },
      { selector: {}, limit: -1 },
      { selector: {}, fields: "n" },
    ]) {
      expect((await store.ask("POST", `/${db}/_find`, { body })).status, JSON.stringify(body)).to.equal(400);
    }
  });
});

describe("a view of the embedded store", () => {
  const store = useStore();

  it("leaves out the documents that its function breaks or hangs on", async () => {
    const db = await store.database();
    const map = "function (doc) { if (doc.hang) while (true); emit(doc.a.b); }";
    const docs = [
      { _id: "_design/v", views: { x: { map } } },
      { _id: "a", a: { b: 1 } },
      { _id: "b" },
      { _id: "c", hang: true },
    ];
    await store.ask("POST", `/${db}/_bulk_docs`, { body: { docs } });
    const { body } = await store.ask("GET", `/${db}/_design/v/_view/x`);
    expect(body.rows.map((row: { id: string }) => row.id)).to.deep.equal(["a"]);
  });
});
