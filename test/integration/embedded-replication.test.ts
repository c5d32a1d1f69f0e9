import { expect } from "chai";
import PouchDB from "pouchdb";
import memoryAdapter from "pouchdb-adapter-memory";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { describeStores, type TestStore, useStore } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

PouchDB.plugin(memoryAdapter);

const names = new Set<string>();
/** A PouchDB of this process: the peer that replicates. */
function localPeer(): PouchDB.Database {
  const name = `peer-${process.pid}-${names.size}`;
  names.add(name);
  return new PouchDB(name, { adapter: "memory" });
}

const remote = async (store: TestStore) => new PouchDB(`${store.url}/${await store.database()}`, { skip_setup: true });
const idsOf = async (db: PouchDB.Database) => (await db.allDocs()).rows.map((row) => row.id);
const hash = (digit: string) => digit.repeat(32);

describeStores("PouchDB's replication", (store) => {
  it("brings everything here: documents, tombstones, conflicts, histories and attachments", async () => {
    const peer = localPeer();
    const db = await remote(store);
    const { rev } = await peer.put({ _id: "gone" });
    await peer.remove("gone", rev);
    await peer.bulkDocs(
      [
        { _id: "a", _rev: `1-${hash("a")}` },
        { _id: "a", _rev: `1-${hash("b")}` },
      ],
      { new_edits: false },
    );
    const one = await peer.put({ _id: "b", n: 1 });
    await peer.put({ _id: "b", n: 2, _rev: one.rev });
    await peer.put({
      _id: "d",
      _attachments: { f: { data: Buffer.from("hi").toString("base64"), content_type: "text/plain" } },
    });
    await peer.replicate.to(db);
    expect(await idsOf(db)).to.deep.equal(await idsOf(peer));
    const conflicted = await db.get("a", { conflicts: true });
    expect([conflicted._rev, conflicted._conflicts]).to.deep.equal([`1-${hash("b")}`, [`1-${hash("a")}`]]);
    expect((await db.get("b", { revs: true }))._revisions).to.deep.equal(
      (await peer.get("b", { revs: true }))._revisions,
    );
    expect((await db.getAttachment("d", "f")).toString()).to.equal("hi");
    const changes = await db.changes({ since: 0, return_docs: true });
    expect(changes.results.find((row) => row.id === "gone")?.deleted).to.equal(true);
    await peer.destroy();
  });

  it("takes everything from here, and goes on from its checkpoint the next time", async () => {
    const peer = localPeer();
    const db = await remote(store);
    await db.bulkDocs(Array.from({ length: 250 }, (_, n) => ({ _id: `d${n}`, n })));
    await db.put({
      _id: "file",
      _attachments: { f: { data: Buffer.from("hi").toString("base64"), content_type: "text/plain" } },
    });
    const first = (await db.replicate.to(peer)) as { docs_written: number };
    expect(first.docs_written).to.equal(251);
    expect((await peer.getAttachment("file", "f")).toString()).to.equal("hi");
    await db.put({ _id: "late" });
    const second = (await db.replicate.to(peer)) as { docs_written: number };
    expect(second.docs_written).to.equal(1);
    await peer.destroy();
  });

  it("stays live both ways", async () => {
    const peer = localPeer();
    const db = await remote(store);
    const sync = PouchDB.sync(peer, db, { live: true, retry: true });
    sync.on("error", () => {});
    await db.put({ _id: "there" });
    await peer.put({ _id: "here" });
    const both = ["here", "there"];
    await eventually(async () => expect([await idsOf(peer), await idsOf(db)]).to.deep.equal([both, both]));
    await peer.put({ ...(await peer.get("there")), changed: true });
    await eventually(async () => expect((await db.get("there")).changed).to.equal(true));
    const ended = new Promise((resolve) => sync.on("complete", resolve));
    sync.cancel();
    await ended;
    await peer.destroy();
  });

  it("carries what a selector lets through, tombstones with their fields too", async () => {
    const peer = localPeer();
    const db = await remote(store);
    const { rev } = await db.put({ _id: "a", site: "x" });
    await db.put({ _id: "b", site: "y" });
    const options = { selector: { site: "x" } };
    await db.replicate.to(peer, options);
    expect(await idsOf(peer)).to.deep.equal(["a"]);
    await db.put({ _id: "a", _rev: rev, site: "x", _deleted: true });
    await db.replicate.to(peer, options);
    expect(await idsOf(peer)).to.deep.equal([]);
    await peer.destroy();
  });

  it("is told of each document that is refused, and brings the others", async () => {
    const peer = localPeer();
    const db = await remote(store);
    await db.put({
      _id: "_design/guard",
      validate_doc_update: "function (doc) { if (doc.bad) throw({ forbidden: 'bad' }); }",
    });
    await peer.bulkDocs([{ _id: "a" }, { _id: "b", bad: true }, { _id: "c" }]);
    const denied: string[] = [];
    const replication = peer.replicate.to(db);
    replication.on("denied", (refused: { id: string }) => denied.push(refused.id));
    const result = (await replication) as { doc_write_failures: number };
    expect([result.doc_write_failures, denied]).to.deep.equal([1, ["b"]]);
    expect(await idsOf(db)).to.deep.equal(["_design/guard", "a", "c"]);
    await peer.destroy();
  });
});

describe("two embedded stores", () => {
  const one = useStore();
  const other = useStore(() => startEmbedded({ credentials: { user: "u", password: "p" } }));

  it("agree on the winner of a conflict after they were apart", async () => {
    const here = await remote(one);
    const name = `apart-${process.pid}`;
    const there = new PouchDB(`${other.url}/${name}`, { auth: { username: "u", password: "p" } });
    const { rev } = await here.put({ _id: "a", from: "base" });
    await PouchDB.sync(here, there);
    await here.put({ _id: "a", _rev: rev, from: "here" });
    await there.put({ _id: "a", _rev: rev, from: "there" });
    await PouchDB.sync(here, there);
    const seen = await Promise.all([here, there].map((db) => db.get("a", { conflicts: true })));
    expect(seen[0]).to.deep.equal(seen[1]);
    expect(seen[0]?._conflicts).to.have.lengthOf(1);
    await there.destroy();
  });
});
