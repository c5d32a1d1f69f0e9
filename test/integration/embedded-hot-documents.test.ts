import { expect } from "chai";
import { type Document, Store } from "../../config-db/store.ts";
import { describeStores } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

type Counted = Document & { count: number };

describeStores("documents that many write at once", (under) => {
  const hot = Array.from({ length: 20 }, (_, n) => `hot-${n}`);

  it("come through the feed to the last of their changes, beside others that are new", async function () {
    this.timeout(60_000);
    const database = new Store(under.url).database<Counted>(await under.database());
    const seen = new Map<string, string>();
    const end = new AbortController();
    const following = (async () => {
      for await (const { results } of database.follow(0, end.signal)) {
        for (const { id, doc } of results) seen.set(id, doc._rev as string);
      }
    })().catch(() => undefined);

    const written = new Map<string, string>();
    const writer = async (own: string[], name: string) => {
      for (let count = 0; count < 60; count += 1) {
        const updates = own.map((id) => ({ _id: id, ...(count > 0 && { _rev: written.get(id) as string }), count }));
        const rows = await database.bulk([...updates, { _id: `new-${name}-${count}`, count }]);
        for (const row of rows) if ("rev" in row) written.set(row.id, row.rev);
      }
    };
    await Promise.all([0, 5, 10, 15].map((from) => writer(hot.slice(from, from + 5), `w${from}`)));

    expect(written.size).to.equal(hot.length + 4 * 60);
    for (const id of hot) expect(written.get(id), id).to.match(/^60-/);
    await eventually(() => {
      const missed = [...written].filter(([id, rev]) => seen.get(id) !== rev);
      expect(missed).to.deep.equal([]);
    });
    end.abort();
    await following;
  });
});
