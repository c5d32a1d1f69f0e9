import { expect } from "chai";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { type Database, type Document, Store } from "../../config-db/store.ts";

describe("a listing of the store", () => {
  let server: Awaited<ReturnType<typeof startEmbedded>>;
  let database: Database<Document>;
  const written = ["a:1", "a:2", "a:3", "a:4", "a:5"];

  before(async () => {
    server = await startEmbedded({ port: 0 });
  });
  after(() => server.close());
  beforeEach(async function () {
    const store = new Store(server.url);
    const name = `listing-${this.currentTest?.title.length}`;
    await store.request({ method: "PUT", path: name });
    database = store.database(name);
    await database.bulk([...written, "b:1"].map((_id) => ({ _id })));
  });

  const remove = async (...ids: string[]) => {
    const docs = await database.getMany(ids);
    await database.bulk(docs.map(({ _id, _rev }) => ({ _id, _rev, _deleted: true })));
  };

  it("goes page by page through what a prefix has, in its order", async () => {
    const pages: string[][] = [];
    for await (const page of database.pages("a:", { limit: 2 })) pages.push(page.map(({ id }) => id));
    expect(pages).to.deep.equal([["a:1", "a:2"], ["a:3", "a:4"], ["a:5"]]);
  });

  it("leaves none out when what it was given is deleted before it asks for more", async () => {
    const seen: string[] = [];
    for await (const page of database.pages("a:", { limit: 2, withDocs: true })) {
      const ids = page.map(({ doc }) => doc?._id ?? "");
      seen.push(...ids);
      await remove(...ids);
    }
    expect(seen).to.deep.equal(written);
  });

  it("goes on after an id that was never there", async () => {
    const page = await database.page("a:", { after: "a:20", limit: 2 });
    expect(page.map(({ id }) => id)).to.deep.equal(["a:3", "a:4"]);
  });
});
