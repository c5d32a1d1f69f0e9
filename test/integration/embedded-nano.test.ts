import { expect } from "chai";
import nano, { type DocumentScope } from "nano";
import { describeStores } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

interface Thing {
  kind?: string;
  n?: number;
}

describeStores("nano", (store) => {
  const open = async (): Promise<DocumentScope<Thing>> => nano(store.url).use<Thing>(await store.database());
  const failure = (work: Promise<unknown>) =>
    work.then(
      () => undefined,
      (error: { statusCode?: number; error?: string }) => [error.statusCode, error.error],
    );

  it("creates, describes and destroys databases", async () => {
    const server = nano(store.url);
    const name = await store.database();
    expect((await server.db.get(name)).db_name).to.equal(name);
    expect(await server.db.list()).to.include(name);
    expect(await failure(server.db.create(name))).to.deep.equal([412, "file_exists"]);
    await server.db.destroy(name);
    expect(await failure(server.db.get(name))).to.deep.equal([404, "not_found"]);
  });

  it("inserts, updates over a revision, meets conflicts and destroys", async () => {
    const db = await open();
    const made = await db.insert({ kind: "x" }, "a");
    expect(await failure(db.insert({ kind: "y" }, "a"))).to.deep.equal([409, "conflict"]);
    const updated = await db.insert({ _id: "a", _rev: made.rev, kind: "y" } as Thing, "a");
    expect((await db.get("a")).kind).to.equal("y");
    expect((await db.head("a")) as object).to.include({ etag: `"${updated.rev}"` });
    await db.destroy("a", updated.rev);
    expect(await failure(db.get("a"))).to.deep.equal([404, "not_found"]);
  });

  it("writes many, lists and fetches them", async () => {
    const db = await open();
    const rows = await db.bulk({ docs: ["a", "b", "c"].map((_id, n) => ({ _id, n })) });
    expect(rows.every((row) => row.rev !== undefined)).to.equal(true);
    const listed = await db.list({ include_docs: true, startkey: "b" });
    expect(listed.rows.map((row) => row.doc?.n)).to.deep.equal([1, 2]);
    const fetched = await db.fetch({ keys: ["c", "a"] });
    expect(fetched.rows.map((row) => ("doc" in row ? row.doc?._id : undefined))).to.deep.equal(["c", "a"]);
  });

  it("queries views and Mango", async () => {
    const db = await open();
    await db.bulk({ docs: [1, 2, 3].map((n) => ({ _id: `d${n}`, n, kind: "k" })) });
    const design = { views: { n: { map: "function (doc) { emit(doc.n, 1); }", reduce: "_sum" } } };
    await db.insert(design as Thing, "_design/v");
    expect((await db.view("v", "n", { reduce: false, keys: [3, 1] })).rows.map((row) => row.id)).to.deep.equal([
      "d3",
      "d1",
    ]);
    expect((await db.view("v", "n")).rows[0]?.value).to.equal(3);
    await db.createIndex({ index: { fields: ["n"] } });
    expect((await db.find({ selector: { n: { $gt: 1 } }, sort: ["n"] })).docs.map((doc) => doc.n)).to.deep.equal([
      2, 3,
    ]);
  });

  it("stores and reads attachments", async () => {
    const db = await open();
    const made = await db.attachment.insert("a", "f.bin", Buffer.from([0, 255, 10]), "application/x-bin");
    expect(Buffer.from([0, 255, 10]).equals(await db.attachment.get("a", "f.bin"))).to.equal(true);
    await db.attachment.destroy("a", "f.bin", { rev: made.rev });
    expect((await db.get("a"))._attachments).to.equal(undefined);
  });

  it("follows changes, through a selector if it likes, until it is stopped", async () => {
    const db = await open();
    await db.insert({ kind: "old" }, "before");
    const seen: string[] = [];
    const reader = db.changesReader;
    const feed = reader.start({ since: "0", selector: { kind: "wanted" }, includeDocs: true, timeout: 2_000 });
    feed.on("change", (change: { id: string }) => seen.push(change.id));
    const errors: unknown[] = [];
    feed.on("error", (error: unknown) => errors.push(error));
    await db.insert({ kind: "other" }, "a");
    await db.insert({ kind: "wanted" }, "b");
    await eventually(() => expect(seen).to.deep.equal(["b"]));
    await db.insert({ kind: "wanted" }, "c");
    await eventually(() => expect(seen).to.deep.equal(["b", "c"]));
    expect(errors).to.deep.equal([]);
    reader.stop();
    await new Promise((resolve) => feed.once("end", resolve));
  });

  it("reads all changes up to now and ends", async () => {
    const db = await open();
    await db.bulk({ docs: Array.from({ length: 25 }, (_, n) => ({ _id: `d${n}`, n })) });
    const seen: string[] = [];
    const feed = db.changesReader.get({ since: "0", batchSize: 10, timeout: 100 });
    feed.on("change", (change: { id: string }) => seen.push(change.id));
    await new Promise((resolve) => feed.once("end", resolve));
    expect(new Set(seen).size).to.equal(25);
    const spooled: unknown[] = [];
    const spool = db.changesReader.spool({ since: "0", batchSize: 10 });
    spool.on("batch", (batch: unknown[]) => spooled.push(...batch));
    await new Promise((resolve) => spool.once("end", resolve));
    expect(spooled).to.have.lengthOf(25);
  });
});
