import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { type Change, readChanges } from "../../config-db/embedded/changes-page.ts";
import { type Opened, openDirectory, type Storage } from "../../config-db/embedded/storage.ts";

describe("changes made of what was written lately", () => {
  let directory: string;
  let storage: Storage;
  let pouch: Opened;
  let names = 0;
  /** Readings from disk. */
  let readings = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-lately-"));
    storage = await openDirectory(directory);
  });
  after(async () => {
    await storage.close();
    await rm(directory, { recursive: true });
  });

  async function open(name: string): Promise<void> {
    pouch = await storage.open(name, 1_000);
    const changes = pouch.changes.bind(pouch);
    readings = 0;
    pouch.changes = (options) => {
      readings += 1;
      return changes(options);
    };
  }

  beforeEach(() => open(`db-${++names}`));
  afterEach(() => storage.shut(pouch));

  const told = (changes: Change[]) =>
    changes.map(({ seq, id, revs, isDeleted, doc }) => ({ seq, id, revs, isDeleted, doc }));
  const fromDisk = (request: { since: number; limit?: number }) =>
    readChanges(Object.create(pouch, { lately: { value: undefined } }), request);

  async function expectTheSame(request: { since: number; limit?: number }): Promise<void> {
    const [lately, disk] = [await readChanges(pouch, request), await fromDisk(request)];
    expect(told(lately.changes)).to.deep.equal(told(disk.changes));
    // Of a page that is cut short each says how far it has read: what comes after is the same.
    const rest = (lastSeq: number) => fromDisk({ since: lastSeq }).then(({ changes }) => told(changes));
    const after = await rest(lately.lastSeq);
    expect(after).to.deep.equal(await rest(disk.lastSeq));
    if (!lately.isFull) expect(after).to.deep.equal([]);
  }

  it("are those that are on disk, and are not read from there", async () => {
    await pouch.bulkDocs([{ _id: "a", n: 1 }, { _id: "b" }, { _id: "c", inner: { _id: '"_id":"', _rev: "x" } }]);
    const { rev } = await pouch.put({ ...(await pouch.get("b")), n: 2 });
    await pouch.remove("c", (await pouch.get("c"))._rev as string);
    const { changes, lastSeq, isFull } = await readChanges(pouch, { since: 0 });
    expect(readings).to.equal(0);
    expect(changes.map(({ seq, id, isDeleted }) => [seq, id, isDeleted])).to.deep.equal([
      [1, "a", false],
      [4, "b", false],
      [5, "c", true],
    ]);
    expect(changes[1]).to.deep.include({ revs: [rev], json: `{"_id":"b","_rev":"${rev}","n":2}` });
    expect(changes[0]?.json).to.match(/^{"_id":"a","_rev":"1-[0-9a-f]{32}","n":1}$/);
    expect({ lastSeq, isFull }).to.deep.equal({ lastSeq: 5, isFull: false });
    await expectTheSame({ since: 0 });
  });

  it("are read from disk where not all was written lately", async () => {
    const name = `db-${names}`;
    await pouch.bulkDocs([{ _id: "a" }, { _id: "b" }]);
    await storage.shut(pouch);
    await open(name);
    await pouch.put({ _id: "c" });
    expect((await readChanges(pouch, { since: 0 })).changes.map(({ id }) => id)).to.deep.equal(["a", "b", "c"]);
    expect(readings).to.equal(1);
    expect((await readChanges(pouch, { since: 2 })).changes.map(({ id }) => id)).to.deep.equal(["c"]);
    expect(readings).to.equal(1);
  });

  it("end where nothing is newer", async () => {
    await pouch.put({ _id: "a" });
    for (const since of [1, 7]) {
      const { changes, lastSeq, isFull } = await readChanges(pouch, { since });
      expect({ changes, lastSeq, isFull }).to.deep.equal({ changes: [], lastSeq: since, isFull: false });
    }
  });

  it("are the same as from disk, whatever was written", async () => {
    const id = fc.constantFrom("a", "b", "c", "d");
    const write = fc.oneof(
      fc.record({ kind: fc.constant("put" as const), ids: fc.uniqueArray(id, { minLength: 1 }) }),
      fc.record({ kind: fc.constant("remove" as const), ids: id.map((one) => [one]) }),
      // Of another replica: a branch beside what stands here.
      fc.record({ kind: fc.constant("branch" as const), ids: id.map((one) => [one]) }),
      fc.record({ kind: fc.constant("attach" as const), ids: id.map((one) => [one]) }),
      fc.record({ kind: fc.constant("compact" as const), ids: fc.constant([]) }),
    );
    let counter = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(write, { maxLength: 10 }), async (writes) => {
        const { update_seq: since } = await pouch.info();
        for (const { kind, ids } of writes) {
          counter += 1;
          const n = counter;
          const revs = await Promise.all(
            ids.map((one) =>
              pouch.get(one).then(
                (doc) => doc._rev,
                () => undefined,
              ),
            ),
          );
          const docs = ids.map((_id, at) => ({ _id, n, ...(revs[at] !== undefined && { _rev: revs[at] }) }));
          if (kind === "put") await pouch.bulkDocs(docs);
          if (kind === "remove") await pouch.bulkDocs(docs.map((doc) => ({ ...doc, _deleted: true })));
          if (kind === "branch") {
            const hash = n.toString(16).padStart(32, "0");
            await pouch.bulkDocs([{ _id: ids[0], _rev: `1-${hash}`, n }], { new_edits: false });
          }
          if (kind === "attach") {
            const text = { content_type: "text/plain", data: Buffer.from(`${n}`).toString("base64") };
            await pouch.bulkDocs(docs.map((doc) => ({ ...doc, _attachments: { text } })));
          }
          if (kind === "compact") await pouch.compact();
          await expectTheSame({ since });
          await expectTheSame({ since: since + 1, limit: 2 });
        }
      }),
      { numRuns: 10 },
    );
  });
});
