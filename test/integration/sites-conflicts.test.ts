import { expect } from "chai";
import { pino } from "pino";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { databases, documentId } from "../../config-db/names.ts";
import { compareLeaves } from "../../config-db/revision.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { isUsable } from "../../coordinator/config/arrival.ts";
import { History } from "../../coordinator/config/history.ts";
import type { StoredLayer } from "../../coordinator/config/records.ts";
import { Conflicts } from "../../coordinator/sites/conflicts.ts";
import type { VersionedDocument } from "../../coordinator/sites/resolve.ts";
import { eventually } from "../support/eventually.ts";
import { replicateOnce } from "./sites-fixture.ts";

/** What of a site resolves conflicts, on a store of its own. */
interface Site {
  name: string;
  store: Store;
  history: History;
  conflicts: Conflicts;
  write(change: Partial<VersionedDocument>): Promise<void>;
  read(): Promise<VersionedDocument | undefined>;
  close(): Promise<void>;
}

const layer = documentId.layer("platform");

async function startSite(name: string): Promise<Site> {
  const embedded = await startEmbedded();
  const store = new Store(embedded.url);
  await install(store);
  const database = store.database<Document>(databases.config);
  const history = new History(database);
  const conflicts = new Conflicts({
    store,
    site: name,
    leads: () => true,
    isUsable,
    keepHistory: (layers) => history.keep(layers as unknown as StoredLayer[]),
    logger: pino({ level: "silent" }),
  });
  const feed = new ChangesFeed(database, { onChanges: (changes) => conflicts.apply(changes) });
  await feed.start();
  await conflicts.start();
  const read = async () => (await database.get(layer)) as VersionedDocument | undefined;
  return {
    name,
    store,
    history,
    conflicts,
    read,
    write: async (change) => {
      const last = (await database.leaves(layer)).sort(compareLeaves).at(-1) as VersionedDocument | undefined;
      const standing = last?._deleted === true ? undefined : last;
      const doc = {
        ...(standing ?? { _id: layer, kind: "layer", schemaVersion: 1, layer: "platform", settings: {} }),
        ...(last === undefined ? {} : { parent: { rev: last._rev, version: last.version } }),
        version: (last?.version ?? 0) + 1,
        changedBy: `operator of ${name}`,
        changedAt: new Date().toISOString(),
        site: name,
        ...change,
      } as VersionedDocument;
      const rev = await database.put(doc);
      await history.keep([{ ...doc, _rev: rev } as unknown as StoredLayer]);
    },
    close: async () => {
      await feed.close();
      await conflicts.close();
      await embedded.close();
    },
  };
}

const replicate = (from: Site, to: Site) => replicateOnce(from.store, to.store);

describe("conflicts at a site", function () {
  this.timeout(20_000);
  let east: Site;
  let west: Site;

  const exchange = async () => {
    await replicate(east, west);
    await replicate(west, east);
  };
  /** Both sites resolve at once, and then hear of each other again. */
  const settled = async () => {
    await exchange();
    return await eventually(async () => {
      await exchange();
      const [one, other] = [await east.read(), await west.read()];
      expect(one).to.deep.equal(other);
      expect(west.conflicts.list()).to.deep.equal(east.conflicts.list());
      for (const site of [east, west]) {
        const leaves = await site.store.database<Document>(databases.config).leaves(layer);
        expect(leaves.filter((leaf) => !("mergedInto" in leaf))).to.have.length(1);
      }
      return one;
    });
  };

  beforeEach(async () => {
    [east, west] = await Promise.all([startSite("east"), startSite("west")]);
    await east.write({ settings: { a: 1, b: 1 } });
    await replicate(east, west);
  });
  afterEach(async () => {
    await Promise.all([east.close(), west.close()]);
  });

  it("are merged to the same revision at both sites, and what was merged is in history", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 1, b: 2 } });
    const lost = [await east.read(), await west.read()];
    const merged = await settled();
    expect(merged?.settings).to.deep.equal({ a: 2, b: 2 });
    expect(east.conflicts.list()).to.deep.equal([]);
    const config = west.store.database<Document>(databases.config);
    for (const doc of [...lost, merged]) {
      const rev = (doc as unknown as { _rev: string })._rev;
      expect(await config.get(documentId.history("platform", rev)), rev).to.not.equal(undefined);
    }
  });

  it("are listed at both sites where both changed the same setting, until an operator at either closes them", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    expect((await settled())?.settings).to.deep.equal({ a: 3, b: 1 });
    const [listed] = east.conflicts.list();
    expect(listed).to.include({ layer: "platform", pointer: "/a", base: 1 });
    const loser = listed?.candidates.find(({ live }) => !live);
    expect(loser).to.include({ site: "east", value: 2, changedBy: "operator of east" });
    await east.conflicts.resolve(listed?.id as string, { choose: loser?.rev as string }, "ann");
    expect((await settled())?.settings).to.deep.equal({ a: 2, b: 1 });
    expect(west.conflicts.list()).to.deep.equal([]);
  });

  it("that are closed at both sites at once in the same way become the same revision", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    await settled();
    const id = east.conflicts.list()[0]?.id as string;
    await Promise.all([
      east.conflicts.resolve(id, { value: 5 }, "ann"),
      west.conflicts.resolve(id, { value: 5 }, "bob"),
    ]);
    expect((await east.read()) as object).to.deep.equal(await west.read());
    expect((await settled())?.settings).to.deep.equal({ a: 5, b: 1 });
    expect(east.conflicts.list()).to.deep.equal([]);
  });

  it("that are closed at both sites at once in different ways are listed again, with both answers", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    await settled();
    const id = east.conflicts.list()[0]?.id as string;
    await east.conflicts.resolve(id, { value: 5 }, "ann");
    await west.conflicts.resolve(id, { value: 6 }, "bob");
    await exchange();
    await eventually(() => expect(answers(east)?.map(({ site }) => site)).to.have.members(["east", "west"]));
    await settled();
    // Which of them stands, their revisions decide.
    expect(answers(east)?.map(({ live, ...said }) => said)).to.have.deep.members([
      { site: "east", changedBy: "ann", value: 5 },
      { site: "west", changedBy: "bob", value: 6 },
    ]);
  });

  /** Of the one conflict that is listed. */
  const answers = (site: Site) => {
    const [conflict, ...others] = site.conflicts.list();
    expect(others).to.deep.equal([]);
    return conflict?.candidates.map(({ site: from, changedBy, value, live }) => ({
      ...{ site: from, changedBy, live },
      ...(value === undefined ? {} : { value }),
    }));
  };
  const revOf = (live: boolean) =>
    east.conflicts.list()[0]?.candidates.find((candidate) => candidate.live === live)?.rev as string;

  it("that one site closes by keeping what stands and the other by something else are listed again", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    await settled();
    const id = east.conflicts.list()[0]?.id as string;
    const [live, other] = [revOf(true), revOf(false)];
    await east.conflicts.resolve(id, { choose: live }, "ann");
    await east.write({ settings: { a: 3, b: 2 } });
    await west.conflicts.resolve(id, { choose: other }, "bob");
    await exchange();
    await eventually(() => expect(east.conflicts.list()).to.have.length(1));
    expect((await settled())?.settings).to.deep.equal({ a: 2, b: 2 });
    expect(answers(west)).to.have.deep.members([
      { site: "east", changedBy: "ann", value: 3, live: false },
      { site: "west", changedBy: "bob", value: 2, live: true },
    ]);
    const kept = west.conflicts.list()[0]?.candidates.find(({ site }) => site === "east")?.rev as string;
    await west.conflicts.resolve(id, { choose: kept }, "eve");
    expect((await settled())?.settings).to.deep.equal({ a: 3, b: 2 });
    expect(east.conflicts.list()).to.deep.equal([]);
  });

  it("of a deletion that one site keeps and the other takes are listed again", async () => {
    await east.write({ settings: {}, _deleted: true });
    await west.write({ settings: { a: 4, b: 1 } });
    await settled();
    const id = east.conflicts.list()[0]?.id as string;
    const [live, other] = [revOf(true), revOf(false)];
    await east.conflicts.resolve(id, { choose: live }, "ann");
    await west.conflicts.resolve(id, { choose: other }, "bob");
    await exchange();
    await eventually(() => expect(east.conflicts.list()).to.have.length(1));
    expect(await settled()).to.equal(undefined);
    expect(answers(east)).to.have.deep.members([
      { site: "east", changedBy: "ann", value: { settings: { a: 4, b: 1 } }, live: false },
      { site: "west", changedBy: "bob", live: true },
    ]);
  });

  it("that both sites close by keeping what stands are closed", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    const merged = await settled();
    const id = east.conflicts.list()[0]?.id as string;
    const live = revOf(true);
    await east.conflicts.resolve(id, { choose: live }, "ann");
    await west.conflicts.resolve(id, { choose: live }, "bob");
    await east.write({ settings: { a: 7, b: 1 } });
    expect((await settled())?._rev).to.not.equal(merged?._rev);
    expect(west.conflicts.list()).to.deep.equal([]);
  });

  it("of a deletion and an edit keep the edit, and choosing the deletion deletes", async () => {
    await east.write({ settings: {}, _deleted: true });
    await west.write({ settings: { a: 4, b: 1 } });
    expect((await settled())?.settings).to.deep.equal({ a: 4, b: 1 });
    const [listed] = west.conflicts.list();
    const deletion = listed?.candidates.find((candidate) => !("value" in candidate));
    await west.conflicts.resolve(listed?.id as string, { choose: deletion?.rev as string }, "ann");
    expect(await settled()).to.equal(undefined);
    expect(east.conflicts.list()).to.deep.equal([]);
  });

  describe("of a site that missed more versions than a store knows the ancestry of", () => {
    /** A store knows so many generations. */
    const generations = 4;

    beforeEach(async () => {
      for (const { store } of [east, west]) {
        await store.request({ method: "PUT", path: `${databases.config}/_revs_limit`, body: generations });
      }
      await east.write({ settings: { n: 1, gone: "x", keep: { a: 1, b: 2 } }, content: { old: file("0") } });
      await replicate(east, west);
    });

    function file(digit: string) {
      return { contentType: "text/plain", sha256: digit.repeat(64), sizeBytes: 1 };
    }

    /** East takes away what was there and goes on; its history keeps the newest versions. */
    async function goOn() {
      for (let n = 2; n < 12; n++) await east.write({ settings: { n, keep: { a: 1 } }, content: {} });
      await east.history.forget("platform", east.history.revisions("platform").slice(generations));
    }

    const places = () => east.conflicts.list().map(({ part, pointer }) => `${part} ${pointer}`);

    it("are none where that site wrote nothing", async () => {
      await goOn();
      const standing = await east.read();
      expect(await settled()).to.deep.equal(standing);
      expect(east.conflicts.list()).to.deep.equal([]);
    });

    it("are none where the layer had been deleted there", async () => {
      await east.write({ settings: {}, _deleted: true });
      await replicate(east, west);
      await goOn();
      const standing = await east.read();
      expect(await settled()).to.deep.equal(standing);
      expect(east.conflicts.list()).to.deep.equal([]);
    });

    it("are merged from what both had, where history still has that", async () => {
      const both = (await east.read())?._rev;
      for (let n = 2; n < 12; n++) await east.write({ settings: { n, keep: { a: 1 } }, content: {} });
      const old = east.history.revisions("platform").slice(generations);
      await east.history.forget(
        "platform",
        old.filter(({ rev }) => rev !== both),
      );
      await west.write({ settings: { n: 1, gone: "x", keep: { a: 1, b: 2 }, mine: 1 } });
      expect((await settled())?.settings).to.deep.equal({ n: 11, keep: { a: 1 }, mine: 1 });
      expect(east.conflicts.list()).to.deep.equal([]);
    });

    it("are all that differs where nobody has any more what both had, and nothing that was taken away comes back", async () => {
      await goOn();
      await west.write({
        settings: { n: 1, gone: "x", keep: { a: 1, b: 2 }, mine: 1 },
        content: { old: file("0"), mine: file("1") },
      });
      const merged = await settled();
      expect(merged?.settings).to.deep.equal({ n: 11, keep: { a: 1 } });
      expect(merged?.content ?? {}).to.deep.equal({});
      expect(places()).to.have.members([
        "settings /n",
        "settings /gone",
        "settings /keep/b",
        "settings /mine",
        "content /old",
        "content /mine",
      ]);
      const mine = west.conflicts.list().find(({ pointer, part }) => part === "settings" && pointer === "/mine");
      const chosen = mine?.candidates.find(({ live }) => !live);
      expect(chosen).to.deep.include({ site: "west", value: 1 });
      await west.conflicts.resolve(mine?.id as string, { choose: chosen?.rev as string }, "ann");
      expect((await settled())?.settings).to.deep.equal({ n: 11, keep: { a: 1 }, mine: 1 });
    });
  });

  it("tells who chooses what is no candidate which there are", async () => {
    await east.write({ settings: { a: 2, b: 1 } });
    await west.write({ settings: { a: 3, b: 1 } });
    await settled();
    const [listed] = east.conflicts.list();
    const error = await east.conflicts.resolve(listed?.id as string, { choose: "1-x" }, "ann").catch((e) => e);
    expect(error).to.include({ code: "refused" });
    expect(error.message).to.include(listed?.candidates[0]?.rev);
  });
});
