import { expect } from "chai";
import { describeStores } from "../support/embedded.ts";

describeStores("a document", (store) => {
  const put = async (path: string, body: object) => (await store.ask("PUT", path, { body })).body.rev as string;

  it("is read back as it was written, with its revision as ETag", async () => {
    const db = await store.database();
    const written = await store.ask("PUT", `/${db}/a`, { body: { kind: "x", nested: { list: [1, "ü", null] } } });
    expect(written.status).to.equal(201);
    expect(written.headers.get("etag")).to.equal(`"${written.body.rev}"`);
    const read = await store.ask("GET", `/${db}/a`);
    expect(read.status).to.equal(200);
    expect(read.body).to.deep.equal({ _id: "a", _rev: written.body.rev, kind: "x", nested: { list: [1, "ü", null] } });
    expect(Object.keys(read.body).slice(0, 2)).to.deep.equal(["_id", "_rev"]);
    expect(read.headers.get("etag")).to.equal(`"${written.body.rev}"`);
    expect(read.headers.get("content-type")).to.match(/^application\/json/);
  });

  it("is not sent again to whoever has it", async () => {
    const db = await store.database();
    const rev = await put(`/${db}/a`, {});
    const known = await store.ask("GET", `/${db}/a`, { headers: { "if-none-match": `"${rev}"` } });
    expect([known.status, known.body]).to.deep.equal([304, ""]);
    await put(`/${db}/a`, { _rev: rev, more: true });
    const changed = await store.ask("GET", `/${db}/a`, { headers: { "if-none-match": `"${rev}"` } });
    expect(changed.status).to.equal(200);
  });

  it("has a head without a body", async () => {
    const db = await store.database();
    const rev = await put(`/${db}/a`, {});
    const head = await store.ask("HEAD", `/${db}/a`);
    expect([head.status, head.body, head.headers.get("etag")]).to.deep.equal([200, "", `"${rev}"`]);
    expect((await store.ask("HEAD", `/${db}/none`)).status).to.equal(404);
  });

  it("is written over the revision that the writer names, wherever it names it", async () => {
    const db = await store.database();
    const first = await put(`/${db}/a`, {});
    const second = await store.ask("PUT", `/${db}/a?rev=${first}`, { body: { n: 2 } });
    const third = await store.ask("PUT", `/${db}/a`, {
      body: { n: 3 },
      headers: { "if-match": `"${second.body.rev}"` },
    });
    const fourth = await store.ask("PUT", `/${db}/a`, { body: { n: 4, _rev: third.body.rev } });
    expect([second.status, third.status, fourth.status]).to.deep.equal([201, 201, 201]);
    expect(fourth.body.rev).to.match(/^4-/);
  });

  it("is not written over another revision", async () => {
    const db = await store.database();
    const first = await put(`/${db}/a`, {});
    await put(`/${db}/a`, { _rev: first });
    for (const request of [{ body: {} }, { body: { _rev: first } }, { body: {}, headers: { "if-match": first } }]) {
      const refused = await store.ask("PUT", `/${db}/a`, request);
      expect(refused.status).to.equal(409);
      expect(refused.body).to.deep.equal({ error: "conflict", reason: "Document update conflict." });
    }
  });

  it("is deleted over its revision, and is missing then", async () => {
    const db = await store.database();
    const rev = await put(`/${db}/a`, {});
    expect((await store.ask("DELETE", `/${db}/a`)).status).to.equal(409);
    const gone = await store.ask("DELETE", `/${db}/a?rev=${rev}`);
    expect([gone.status, gone.body.ok]).to.deep.equal([200, true]);
    expect(gone.body.rev).to.match(/^2-/);
    const read = await store.ask("GET", `/${db}/a`);
    expect([read.status, read.body]).to.deep.equal([404, { error: "not_found", reason: "deleted" }]);
    expect((await store.ask("DELETE", `/${db}/never?rev=${rev}`)).status).to.equal(404);
  });

  it("keeps the fields of a tombstone that is written with _deleted", async () => {
    const db = await store.database();
    const rev = await put(`/${db}/a`, { kind: "component" });
    const gone = await put(`/${db}/a`, { _rev: rev, _deleted: true, kind: "component" });
    const read = await store.ask("GET", `/${db}/a?rev=${gone}`);
    expect(read.body).to.deep.equal({ _id: "a", _rev: gone, _deleted: true, kind: "component" });
  });

  it("can be made again after it was deleted, with a later generation", async () => {
    const db = await store.database();
    const rev = await put(`/${db}/a`, {});
    await store.ask("DELETE", `/${db}/a?rev=${rev}`);
    expect(await put(`/${db}/a`, { again: true })).to.match(/^3-/);
  });

  it("gets an id of its own when it is posted without one", async () => {
    const db = await store.database();
    const made = await store.ask("POST", `/${db}`, { body: { n: 1 } });
    expect(made.status).to.equal(201);
    expect(made.body.id).to.match(/^[0-9a-f]{32}$/);
    expect((await store.ask("POST", `/${db}`, { body: { _id: "own" } })).body.id).to.equal("own");
  });

  it("tells its history and whether its older revisions are still here", async () => {
    const db = await store.database();
    const first = await put(`/${db}/a`, { n: 1 });
    const second = await put(`/${db}/a`, { n: 2, _rev: first });
    const { body } = await store.ask("GET", `/${db}/a?revs=true&revs_info=true`);
    expect(body._revisions).to.deep.equal({ start: 2, ids: [second, first].map((rev) => rev.split("-")[1]) });
    expect(body._revs_info.map((info: { rev: string }) => info.rev)).to.deep.equal([second, first]);
    expect((await store.ask("GET", `/${db}/a?rev=${first}`)).body.n).to.equal(1);
  });

  it("shows its losing revisions as conflicts, and each can be read and removed", async () => {
    const db = await store.database();
    const [one, other] = ["1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "1-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"];
    for (const _rev of [one, other]) await store.ask("PUT", `/${db}/a?new_edits=false`, { body: { _rev, from: _rev } });
    const both = await store.ask("GET", `/${db}/a?conflicts=true`);
    expect([both.body._rev, both.body._conflicts]).to.deep.equal([other, [one]]);
    const leaves = await store.ask("GET", `/${db}/a?open_revs=all`);
    expect(leaves.body.map((row: { ok: { _rev: string } }) => row.ok._rev).sort()).to.deep.equal([one, other]);
    await store.ask("DELETE", `/${db}/a?rev=${one}`);
    expect((await store.ask("GET", `/${db}/a?conflicts=true`)).body).to.not.have.property("_conflicts");
    expect((await store.ask("GET", `/${db}/a?deleted_conflicts=true`)).body._deleted_conflicts).to.have.lengthOf(1);
  });

  it("gives chosen revisions, and says which it has not", async () => {
    const db = await store.database();
    const first = await put(`/${db}/a`, { n: 1 });
    const second = await put(`/${db}/a`, { n: 2, _rev: first });
    const wanted = encodeURIComponent(JSON.stringify([first, "9-0123456789abcdef0123456789abcdef"]));
    const { body } = await store.ask("GET", `/${db}/a?open_revs=${wanted}&revs=true`);
    expect(body.find((row: { ok?: object }) => row.ok).ok._revisions.start).to.equal(1);
    expect(body.find((row: { missing?: string }) => row.missing).missing).to.match(/^9-/);
    const newest = await store.ask(
      "GET",
      `/${db}/a?latest=true&open_revs=${encodeURIComponent(JSON.stringify([first]))}`,
    );
    expect(newest.body.map((row: { ok: { _rev: string } }) => row.ok._rev)).to.deep.equal([second]);
  });

  it("comes as multipart/mixed to a replicator", async () => {
    const db = await store.database();
    await put(`/${db}/a`, { n: 1 });
    const mixed = await store.ask("GET", `/${db}/a?open_revs=all`, { headers: { accept: "multipart/mixed" } });
    expect(mixed.headers.get("content-type")).to.match(/^multipart\/mixed; boundary=/);
    expect(mixed.body).to.match(/"n":1/);
  });

  it("may have any id that is valid Unicode", async () => {
    const db = await store.database();
    for (const id of ["layer:type:web@1-2", "a/b", "ä ö+?&#%", "😀", "constructor", "hasOwnProperty", "toString"]) {
      const path = `/${db}/${encodeURIComponent(id)}`;
      expect((await store.ask("PUT", path, { body: { id } })).status, id).to.equal(201);
      expect((await store.ask("GET", path)).body.id).to.equal(id);
    }
    const listed = await store.ask("GET", `/${db}/_all_docs`);
    expect(listed.body.rows).to.have.lengthOf(7);
  });

  it("is refused when it is malformed", async () => {
    const db = await store.database();
    const cases: [string, unknown, number, string][] = [
      ["a", "{", 400, "bad_request"],
      ["a", "[]", 400, "bad_request"],
      ["a", { _bogus: 1 }, 400, "doc_validation"],
      ["a", { _rev: "nonsense" }, 400, "bad_request"],
      ["a", { _attachments: [] }, 400, "doc_validation"],
    ];
    for (const [id, body, status, error] of cases) {
      const refused = await store.ask("PUT", `/${db}/${id}`, { body });
      expect([refused.status, refused.body.error], JSON.stringify(body)).to.deep.equal([status, error]);
    }
    expect((await store.ask("GET", `/${db}/_all_docs`)).body.rows).to.deep.equal([]);
  });
});

describeStores("a _local document", (store) => {
  it("is kept with revisions of its own and is not listed or replicated", async () => {
    const db = await store.database();
    const first = await store.ask("PUT", `/${db}/_local/checkpoint`, { body: { n: 1 } });
    expect([first.status, first.body]).to.deep.equal([201, { ok: true, id: "_local/checkpoint", rev: "0-1" }]);
    expect((await store.ask("GET", `/${db}/_local/checkpoint`)).body).to.deep.equal({
      _id: "_local/checkpoint",
      _rev: "0-1",
      n: 1,
    });
    const second = await store.ask("PUT", `/${db}/_local%2Fcheckpoint`, { body: { n: 2, _rev: "0-1" } });
    expect(second.body.rev).to.equal("0-2");
    expect((await store.ask("GET", `/${db}/_all_docs`)).body.rows).to.deep.equal([]);
    expect((await store.ask("GET", `/${db}/_changes`)).body.results).to.deep.equal([]);
    expect((await store.ask("DELETE", `/${db}/_local/checkpoint?rev=0-2`)).status).to.equal(200);
    expect((await store.ask("GET", `/${db}/_local/checkpoint`)).status).to.equal(404);
  });
});
