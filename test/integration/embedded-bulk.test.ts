import { expect } from "chai";
import { describeStores } from "../support/embedded.ts";

const hash = (digit: string) => digit.repeat(32);

describeStores("many documents at once", (store) => {
  const bulk = async (db: string, docs: object[], newEdits = true) =>
    store.ask("POST", `/${db}/_bulk_docs`, { body: newEdits ? { docs } : { docs, new_edits: false } });

  it("are each written or refused on their own, in the order they were sent", async () => {
    const db = await store.database();
    await bulk(db, [{ _id: "taken" }]);
    const { status, body } = await bulk(db, [{ _id: "a" }, { _id: "taken" }, { n: 1 }, { _id: "b" }]);
    expect(status).to.equal(201);
    expect(body.map((row: { error?: string }) => row.error)).to.deep.equal([
      undefined,
      "conflict",
      undefined,
      undefined,
    ]);
    expect(body[0]).to.include({ ok: true, id: "a" });
    expect(body[1]).to.deep.equal({ id: "taken", error: "conflict", reason: "Document update conflict." });
    expect(body[2].id).to.match(/^[0-9a-f]{32}$/);
  });

  it("are deleted with _deleted", async () => {
    const db = await store.database();
    const [row] = (await bulk(db, [{ _id: "a", keep: 1 }])).body;
    await bulk(db, [{ _id: "a", _rev: row.rev, _deleted: true, keep: 1 }]);
    expect((await store.ask("GET", `/${db}/a`)).status).to.equal(404);
    const changes = await store.ask("GET", `/${db}/_changes?include_docs=true`);
    expect(changes.body.results[0]).to.deep.include({ deleted: true });
    expect(changes.body.results[0].doc).to.include({ keep: 1, _deleted: true });
  });

  it("keep the revisions they come with under new_edits=false, and the same revision again changes nothing", async () => {
    const db = await store.database();
    const doc = { _id: "a", _rev: `3-${hash("c")}`, _revisions: { start: 3, ids: [hash("c"), hash("b"), hash("a")] } };
    for (let times = 0; times < 2; times += 1) {
      const { status, body } = await bulk(db, [{ ...doc, v: 1 }], false);
      expect([status, body]).to.deep.equal([201, []]);
    }
    const read = await store.ask("GET", `/${db}/a?revs=true`);
    expect(read.body._revisions).to.deep.equal(doc._revisions);
    expect((await store.ask("GET", `/${db}/_changes`)).body.results).to.have.lengthOf(1);
  });

  it("have the same winner whatever order their revisions come in", async () => {
    const revisions = ["1", "9", "5"].map((digit) => ({ _id: "a", _rev: `2-${hash(digit)}`, digit }));
    for (const order of [revisions, [...revisions].reverse()]) {
      const db = await store.database();
      for (const doc of order) await bulk(db, [doc], false);
      expect((await store.ask("GET", `/${db}/a`)).body.digit).to.equal("9");
    }
  });

  it("are refused as a whole where one cannot be a document", async () => {
    const db = await store.database();
    for (const docs of [[5], [{ _id: "ok" }, { _bogus: 1 }], [{ _id: "_reserved" }], [{ _id: 7 }], "x", undefined]) {
      const { status } = await store.ask("POST", `/${db}/_bulk_docs`, { body: { docs } });
      expect(status, JSON.stringify(docs)).to.equal(400);
    }
    expect((await store.ask("GET", `/${db}`)).body.doc_count).to.equal(0);
  });

  it("are listed by id, in pages, ranges, both ways and by key", async () => {
    const db = await store.database();
    await bulk(
      db,
      ["a", "b", "c", "d"].map((_id) => ({ _id, of: _id })),
    );
    const ids = async (query: string) =>
      (await store.ask("GET", `/${db}/_all_docs?${query}`)).body.rows.map((row: { key: string }) => row.key).join("");
    expect(await ids("")).to.equal("abcd");
    expect(await ids("limit=2&skip=1")).to.equal("bc");
    expect(await ids("limit=0")).to.equal("");
    expect(await ids('startkey="b"&endkey="c"')).to.equal("bc");
    expect(await ids('start_key="b"&end_key="d"&inclusive_end=false')).to.equal("bc");
    expect(await ids("descending=true")).to.equal("dcba");
    expect(await ids('descending=true&startkey="c"&endkey="b"')).to.equal("cb");
    expect(await ids('key="c"')).to.equal("c");
    expect(await ids('startkey="d"&endkey="a"')).to.equal("");
    expect(await ids('keys=["d","none","a"]')).to.equal("dnonea");
    const posted = await store.ask("POST", `/${db}/_all_docs`, { body: { keys: ["b", "none"], include_docs: true } });
    expect(posted.body.rows[0].doc).to.include({ _id: "b", of: "b" });
    expect(posted.body.rows[1]).to.deep.equal({ key: "none", error: "not_found" });
  });

  it("say in a listing what is deleted and what is in conflict", async () => {
    const db = await store.database();
    await bulk(
      db,
      [
        { _id: "a", _rev: `1-${hash("1")}` },
        { _id: "a", _rev: `1-${hash("2")}` },
      ],
      false,
    );
    await bulk(db, [{ _id: "gone", _deleted: true }]);
    const { body } = await store.ask("POST", `/${db}/_all_docs?include_docs=true&conflicts=true`, {
      body: { keys: ["a", "gone"] },
    });
    expect(body.rows[0].doc._conflicts).to.deep.equal([`1-${hash("1")}`]);
    expect(body.rows[1]).to.deep.include({ id: "gone", doc: null });
    expect(body.rows[1].value.deleted).to.equal(true);
  });

  it("are read by revision in one request", async () => {
    const db = await store.database();
    const [first] = (await bulk(db, [{ _id: "a", n: 1 }])).body;
    const [second] = (await bulk(db, [{ _id: "a", n: 2, _rev: first.rev }])).body;
    const { status, body } = await store.ask("POST", `/${db}/_bulk_get?revs=true`, {
      body: { docs: [{ id: "a", rev: first.rev }, { id: "a" }, { id: "none" }, { id: "a", rev: `7-${hash("7")}` }] },
    });
    expect(status).to.equal(200);
    const [old, newest, none, missing] = body.results.map((result: { docs: object[] }) => result.docs[0]);
    expect(old.ok).to.include({ n: 1 });
    expect(newest.ok._revisions).to.deep.equal({ start: 2, ids: [second.rev.slice(2), first.rev.slice(2)] });
    expect(none.error).to.include({ id: "none", error: "not_found", reason: "missing" });
    expect(missing.error).to.include({ rev: `7-${hash("7")}`, error: "not_found" });
  });

  it("are asked for the revisions that are missing, with what could be their ancestors", async () => {
    const db = await store.database();
    const [{ rev }] = (await bulk(db, [{ _id: "a" }])).body;
    const asked = { a: [rev, `2-${hash("b")}`], new: [`1-${hash("c")}`] };
    const { body } = await store.ask("POST", `/${db}/_revs_diff`, { body: asked });
    expect(body).to.deep.equal({
      a: { missing: [`2-${hash("b")}`], possible_ancestors: [rev] },
      new: { missing: [`1-${hash("c")}`] },
    });
    const missing = await store.ask("POST", `/${db}/_missing_revs`, { body: { a: [rev], new: asked.new } });
    expect(missing.body).to.deep.equal({ missing_revs: { new: asked.new } });
  });
});
