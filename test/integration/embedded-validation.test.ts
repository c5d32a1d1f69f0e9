import { expect } from "chai";
import { describeStores, useStore } from "../support/embedded.ts";

const hash = (digit: string) => digit.repeat(32);

/** Refuses documents by what is in them, and a change of their owner. */
const validate = `function (newDoc, oldDoc, userCtx, secObj) {
  if (newDoc.bad) throw({ forbidden: "no bad documents" });
  if (newDoc.secret) throw({ unauthorized: "log in first" });
  if (oldDoc && oldDoc.owner !== newDoc.owner && !newDoc._deleted) throw({ forbidden: "the owner stays" });
  if (newDoc.show) throw({ forbidden: [newDoc._id, userCtx.db, userCtx.roles.join(), typeof secObj].join(" ") });
}`;

describeStores("validate_doc_update", (store) => {
  const guarded = async () => {
    const db = await store.database();
    await store.ask("PUT", `/${db}/_design/guard`, { body: { validate_doc_update: validate } });
    return db;
  };

  it("refuses a document with its reason, and nothing is written", async () => {
    const db = await guarded();
    const refused = await store.ask("PUT", `/${db}/a`, { body: { bad: true } });
    expect([refused.status, refused.body]).to.deep.equal([403, { error: "forbidden", reason: "no bad documents" }]);
    const unknown = await store.ask("PUT", `/${db}/a`, { body: { secret: true } });
    expect([unknown.status, unknown.body]).to.deep.equal([401, { error: "unauthorized", reason: "log in first" }]);
    expect((await store.ask("GET", `/${db}/a`)).status).to.equal(404);
  });

  it("sees the revision that is replaced", async () => {
    const db = await guarded();
    const { rev } = (await store.ask("PUT", `/${db}/a`, { body: { owner: "x" } })).body;
    const refused = await store.ask("PUT", `/${db}/a`, { body: { _rev: rev, owner: "y" } });
    expect([refused.status, refused.body.reason]).to.deep.equal([403, "the owner stays"]);
    expect((await store.ask("PUT", `/${db}/a`, { body: { _rev: rev, owner: "x", n: 2 } })).status).to.equal(201);
  });

  it("sees who writes, where, and the security object", async () => {
    const db = await guarded();
    const { body } = await store.ask("PUT", `/${db}/a`, { body: { show: true } });
    expect(body.reason).to.equal(`a ${db} _admin object`);
  });

  it("judges each document of a bulk write, and those that come by replication", async () => {
    const db = await guarded();
    const docs = [{ _id: "good" }, { _id: "worse", bad: true }];
    const edited = await store.ask("POST", `/${db}/_bulk_docs`, { body: { docs } });
    expect(edited.body.map((row: { error?: string }) => row.error)).to.deep.equal([undefined, "forbidden"]);
    const rev = `1-${hash("a")}`;
    const replicated = await store.ask("POST", `/${db}/_bulk_docs`, {
      body: {
        new_edits: false,
        docs: [
          { _id: "other", _rev: rev },
          { _id: "worst", _rev: rev, bad: true },
        ],
      },
    });
    expect(replicated.body).to.deep.equal([{ id: "worst", rev, error: "forbidden", reason: "no bad documents" }]);
    const { rows } = (await store.ask("GET", `/${db}/_all_docs`)).body;
    expect(rows.map((row: { id: string }) => row.id)).to.deep.equal(["_design/guard", "good", "other"]);
  });

  it("sees the stored ancestor of a revision that comes by replication", async () => {
    const db = await guarded();
    const { rev } = (await store.ask("PUT", `/${db}/a`, { body: { owner: "x" } })).body;
    const doc = { _id: "a", owner: "y", _revisions: { start: 3, ids: [hash("c"), hash("b"), rev.slice(2)] } };
    const refused = await store.ask("POST", `/${db}/_bulk_docs`, {
      body: { new_edits: false, docs: [{ ...doc, _rev: `3-${hash("c")}` }] },
    });
    expect(refused.body[0]).to.include({ error: "forbidden", reason: "the owner stays" });
  });

  it("judges deletions and attachments, not design or _local documents", async () => {
    const db = await guarded();
    const { rev } = (await store.ask("PUT", `/${db}/a`, { body: { owner: "x" } })).body;
    const attached = await store.ask("PUT", `/${db}/a/file?rev=${rev}`, {
      body: "x",
      headers: { "content-type": "text/plain" },
    });
    expect(attached.status).to.equal(201);
    await store.ask("PUT", `/${db}/_design/keep`, {
      body: {
        validate_doc_update:
          "function (doc) { if (doc._deleted) throw({ forbidden: 'kept' }); if (doc._attachments) throw({ forbidden: 'bare' }); }",
      },
    });
    const deleted = await store.ask("DELETE", `/${db}/a?rev=${attached.body.rev}`);
    expect([deleted.status, deleted.body.reason]).to.deep.equal([403, "kept"]);
    const more = await store.ask("PUT", `/${db}/b/file`, { body: "x", headers: { "content-type": "text/plain" } });
    expect([more.status, more.body.reason]).to.deep.equal([403, "bare"]);
    expect((await store.ask("PUT", `/${db}/_local/a`, { body: { bad: true } })).status).to.equal(201);
    expect((await store.ask("PUT", `/${db}/_design/a`, { body: { bad: true } })).status).to.equal(201);
  });

  it("is what the newest revision of the design document says, and gone with it", async () => {
    const db = await guarded();
    const { body: design } = await store.ask("GET", `/${db}/_design/guard`);
    const changed = await store.ask("PUT", `/${db}/_design/guard`, {
      body: { ...design, validate_doc_update: "function (doc) { if (doc.n > 1) throw({ forbidden: 'too much' }); }" },
    });
    expect((await store.ask("PUT", `/${db}/a`, { body: { bad: true } })).status).to.equal(201);
    expect((await store.ask("PUT", `/${db}/b`, { body: { n: 2 } })).status).to.equal(403);
    await store.ask("DELETE", `/${db}/_design/guard?rev=${changed.body.rev}`);
    expect((await store.ask("PUT", `/${db}/b`, { body: { n: 2 } })).status).to.equal(201);
  });

  it("comes after the conflict: who writes over another revision hears of that first", async () => {
    const db = await guarded();
    await store.ask("PUT", `/${db}/a`, { body: {} });
    expect((await store.ask("PUT", `/${db}/a`, { body: { bad: true } })).status).to.equal(409);
  });
});

describe("validate_doc_update of the embedded store", () => {
  const store = useStore();
  const guard = async (source: string) => {
    const db = await store.database();
    const made = await store.ask("PUT", `/${db}/_design/guard`, { body: { validate_doc_update: source } });
    return { db, made };
  };

  it("is stopped when it runs too long: that write fails, the next one does not wait", async () => {
    const { db } = await guard("function (doc) { while (doc.loop); }");
    const stopped = await store.ask("PUT", `/${db}/a`, { body: { loop: true } });
    expect([stopped.status, stopped.body.error]).to.deep.equal([500, "timeout"]);
    expect((await store.ask("PUT", `/${db}/a`, { body: {} })).status).to.equal(201);
  });

  it("refuses a document that it breaks on", async () => {
    const { db } = await guard("function (doc) { doc.a.b.c; }");
    const refused = await store.ask("PUT", `/${db}/a`, { body: {} });
    expect([refused.status, refused.body.error]).to.deep.equal([403, "forbidden"]);
    expect(refused.body.reason).to.match(/_design\/guard threw TypeError/);
  });

  it("is refused itself when it does not compile", async () => {
    const { made } = await guard("function (doc) {");
    expect([made.status, made.body.error]).to.deep.equal([400, "compilation_error"]);
  });

  it("reaches nothing outside its arguments", async () => {
    const { db } = await guard(
      "function () { throw({ forbidden: [typeof process, typeof require, typeof setTimeout, typeof fetch].join() }); }",
    );
    const { body } = await store.ask("PUT", `/${db}/a`, { body: {} });
    expect(body.reason).to.equal("undefined,undefined,undefined,undefined");
    const breakout = await guard("function () { this.constructor.constructor('return process')(); }");
    expect((await store.ask("PUT", `/${breakout.db}/a`, { body: {} })).body.reason).to.match(/EvalError/);
  });
});
