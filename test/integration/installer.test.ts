import { expect } from "chai";
import { designDocuments } from "../../config-db/design/index.ts";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { install, revisionLimits } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { startStoreFront } from "../support/store-front.ts";

describe("the databases of a site", () => {
  it("are installed by coordinators that start at once", async () => {
    const embedded = await startEmbedded();
    try {
      await Promise.all([1, 2, 3].map(() => install(new Store(embedded.url))));
      const store = new Store(embedded.url);
      for (const name of Object.values(databases)) {
        expect(await store.request({ path: `${name}/_revs_limit` })).to.equal(revisionLimits[name]);
        for (const { _id } of designDocuments[name]) expect(await store.database(name).get(_id)).to.include({ _id });
      }
    } finally {
      await embedded.close();
    }
  });

  it("are installed on a store that refuses a limit since another sets it at this moment", async () => {
    const embedded = await startEmbedded();
    const front = await startStoreFront(embedded.url);
    try {
      const answered = front.answerOnce(/PUT \/muster-config\/_revs_limit/, 409, {
        error: "conflict",
        reason: "Document update conflict.",
      });
      await install(new Store(front.url));
      expect(answered()).to.equal(true);
    } finally {
      await front.close();
      await embedded.close();
    }
  });
});
