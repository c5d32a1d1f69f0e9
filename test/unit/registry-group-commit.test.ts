import { expect } from "chai";
import { MusterError } from "../../config-db/errors.ts";
import type { BulkRow, Document } from "../../config-db/store.ts";
import { GroupCommit } from "../../coordinator/registry/group-commit.ts";
import { codeOf } from "../support/codes.ts";

interface Batch {
  ids: string[];
  answer(rows: BulkRow[]): void;
  acknowledge(): void;
  fail(error: Error): void;
}

const idOf = (json: string): string => JSON.parse(json)._id;

/** A store whose answers the test gives. */
class HeldDatabase {
  readonly batches: Batch[] = [];

  bulkJson(docs: string[]): Promise<BulkRow[]> {
    return new Promise((resolve, reject) => {
      const ids = docs.map(idOf);
      const acknowledge = () => resolve(ids.map((id) => ({ id, rev: `1-${id}` })));
      this.batches.push({ ids, answer: resolve, acknowledge, fail: reject });
    });
  }
}

/** Two: what came in one turn of the event loop is sent off in the next. */
const turn = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

function commitTo(database: HeldDatabase, options: { batchMax?: number; waitingMax?: number } = {}) {
  return new GroupCommit({ database, ...options });
}

describe("group commit", () => {
  it("sends a lone write at once and what comes meanwhile together", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const first = commit.write({ _id: "a" });
    await turn();
    const second = commit.write({ _id: "b" });
    await turn();
    const others = ["c", "d", "e"].map((id) => commit.write({ _id: id }));
    await turn();
    expect(database.batches.map(({ ids }) => ids)).to.deep.equal([["a"], ["b"]]);
    database.batches[1]?.acknowledge();
    await second;
    await turn();
    expect(database.batches[2]?.ids).to.deep.equal(["c", "d", "e"]);
    for (const batch of database.batches) batch.acknowledge();
    expect(await Promise.all([first, ...others])).to.deep.equal(["1-a", "1-c", "1-d", "1-e"]);
  });

  it("answers nobody before the store has acknowledged that document", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    let answered = false;
    const write = commit.write({ _id: "a" }).then(() => {
      answered = true;
    });
    await turn();
    expect(answered).to.equal(false);
    database.batches[0]?.acknowledge();
    await write;
    expect(answered).to.equal(true);
  });

  it("tells a conflict to the one whose row it is", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const [a, b] = [commit.write({ _id: "a" }), commit.write({ _id: "b" })];
    await turn();
    database.batches[0]?.answer([
      { id: "a", error: "conflict", reason: "Document update conflict." },
      { id: "b", rev: "1-b" },
    ]);
    expect(await codeOf(a)).to.equal("conflict");
    expect(await b).to.equal("1-b");
  });

  it("tells a refusal of the store apart from a conflict, with its reason", async () => {
    const database = new HeldDatabase();
    const write = commitTo(database).write({ _id: "a" });
    await turn();
    database.batches[0]?.answer([{ id: "a", error: "forbidden", reason: "kind is missing" }]);
    await write.catch((error: MusterError) => expect(error.message).to.include("kind is missing"));
    expect(await codeOf(write)).to.equal("refused");
  });

  it("fails a whole batch with the store and goes on with the next", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const lost = commit.write({ _id: "a" });
    await turn();
    const next = commit.write({ _id: "b" });
    await turn();
    database.batches[0]?.fail(new MusterError("store-unavailable", "gone"));
    expect(await codeOf(lost)).to.equal("store-unavailable");
    await turn();
    database.batches[1]?.acknowledge();
    expect(await next).to.equal("1-b");
  });

  it("answers each by its own write when the store refuses a batch as a whole", async () => {
    const guilty = "f";
    const bulkJson = async (docs: string[]): Promise<BulkRow[]> => {
      if (docs.some((doc) => idOf(doc) === guilty)) throw new MusterError("refused", "a member cannot be named so");
      return docs.map(idOf).map((id) => ({ id, rev: `1-${id}` }));
    };
    const commit = new GroupCommit({ database: { bulkJson } });
    const ids = [..."abcdefg"];
    const outcomes = await Promise.all(ids.map((id) => codeOf(commit.write({ _id: id }))));
    expect(outcomes).to.deep.equal(ids.map((id) => (id === guilty ? "refused" : "none")));
  });

  it("sends no more than 2 MiB together unless one document is larger, and lets none overtake", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const megabytes = (_id: string, count: number) => commit.write({ _id, text: "x".repeat(count * 1e6) } as Document);
    const writes = [megabytes("a", 3), megabytes("b", 1), megabytes("c", 1), megabytes("d", 1), megabytes("e", 0)];
    for (let batch = 0; batch < 3; batch += 1) {
      await turn();
      for (const { acknowledge } of database.batches) acknowledge();
    }
    await Promise.all(writes);
    expect(database.batches.map(({ ids }) => ids)).to.deep.equal([["a"], ["b", "c"], ["d", "e"]]);
  });

  it("never has one document under way twice", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const writes = [commit.write({ _id: "a" }), commit.write({ _id: "b" }), commit.write({ _id: "a" })];
    await turn();
    expect(database.batches.map(({ ids }) => ids)).to.deep.equal([["a", "b"]]);
    database.batches[0]?.acknowledge();
    await turn();
    expect(database.batches[1]?.ids).to.deep.equal(["a"]);
    database.batches[1]?.acknowledge();
    await Promise.all(writes);
  });

  it("sends no more than its limit together", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database, { batchMax: 2 });
    const writes = ["a", "b", "c", "d", "e"].map((id) => commit.write({ _id: id }));
    await turn();
    expect(database.batches.map(({ ids }) => ids)).to.deep.equal([
      ["a", "b"],
      ["c", "d"],
    ]);
    for (const batch of database.batches) batch.acknowledge();
    await turn();
    expect(database.batches[2]?.ids).to.deep.equal(["e"]);
    database.batches[2]?.acknowledge();
    await Promise.all(writes);
  });

  it("sends a second batch beside the first only when it is as large", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const writes = ["a", "b"].map((id) => commit.write({ _id: id }));
    await turn();
    writes.push(commit.write({ _id: "c" }));
    await turn();
    expect(database.batches.map(({ ids }) => ids)).to.deep.equal([["a", "b"]]);
    writes.push(commit.write({ _id: "d" }));
    await turn();
    expect(database.batches[1]?.ids).to.deep.equal(["c", "d"]);
    for (const batch of database.batches) batch.acknowledge();
    await Promise.all(writes);
  });

  it("refuses what comes when its queue is full", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database, { waitingMax: 2 });
    const underWay = ["a", "b"].map((id) => commit.write({ _id: id }));
    await turn();
    const waiting = [commit.write({ _id: "a" }), commit.write({ _id: "b" })];
    expect(await codeOf(commit.write({ _id: "c" }))).to.equal("too-many");
    database.batches[0]?.acknowledge();
    await Promise.all(underWay);
    await turn();
    database.batches[1]?.acknowledge();
    await Promise.all(waiting);
  });

  it("finishes what waits when it is closed, and takes no more", async () => {
    const database = new HeldDatabase();
    const commit = commitTo(database);
    const write = commit.write({ _id: "a" });
    const closed = commit.close();
    expect(await codeOf(commit.write({ _id: "b" }))).to.equal("store-unavailable");
    await turn();
    database.batches[0]?.acknowledge();
    await closed;
    expect(await write).to.equal("1-a");
  });
});
