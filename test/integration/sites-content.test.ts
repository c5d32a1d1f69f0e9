import { createHash, randomBytes } from "node:crypto";
import { expect } from "chai";
import PouchDB from "pouchdb";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { databases, documentId } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { layerDocument } from "./sites-fixture.ts";

/** A configuration on a store of its own, whose leader's clock the test puts forward. */
interface Site extends ConfigSite {
  store: Embedded;
  read(id: string): Promise<Document | undefined>;
  /** Resolves when its leader has dropped these bytes, having waited for as long as they may stay unnamed. */
  drops(bytes: Buffer): Promise<void>;
}

const elevenMinutesMs = 11 * 60_000;
const idOf = (bytes: Buffer) => documentId.content(createHash("sha256").update(bytes).digest("hex"));
const inline = (bytes: Buffer) => ({
  data: { content_type: "application/octet-stream", data: bytes.toString("base64") },
});
const file = (layer: string, name = "f.txt") => `/v1/config/layers/${layer}/content/${name}`;

describe("raw content of sites that are cut off from each other", function () {
  this.timeout(30_000);
  const text = { "content-type": "text/plain" };
  let east: Site;
  let west: Site;
  let layer: string;
  let bytes: Buffer;

  async function startSite(name: string, historyVersions?: number): Promise<Site> {
    const store = await startEmbedded();
    await install(new Store(store.url));
    const database = new Store(store.url).database<Document>(databases.config);
    let aheadMs = 0;
    const site = await startConfigSite({
      storeUrl: store.url,
      site: name,
      clock: () => performance.now() + aheadMs,
      ...(historyVersions === undefined ? {} : { historyVersions }),
    });
    const read = (id: string) => database.get(id);
    const drops = async (dropped: Buffer) => {
      await eventually(
        async () => {
          aheadMs += elevenMinutesMs;
          expect(await read(idOf(dropped))).to.equal(undefined);
        },
        { timeoutMs: 10_000 },
      );
    };
    return { ...site, store, read, drops };
  }

  beforeEach(async () => {
    layer = `type:t${randomBytes(4).toString("hex")}`;
    bytes = randomBytes(2_000);
    east = await startSite("east", 1);
    west = await startSite("west");
  });
  afterEach(async () => {
    for (const site of [east, west]) {
      await site.close();
      await site.store.close();
    }
  });

  const configOf = ({ store }: Site) => new Store(store.url).database<Document>(databases.config);
  const put = (site: Site, settings: object) => site.call("PUT", `/v1/config/layers/${layer}`, { settings });
  const putFile = async (site: Site, headers: Record<string, string> = text) =>
    (await site.call("PUT", file(layer), bytes, headers)).status;

  /** Bytes that no layer names, as those of a write that failed. */
  async function storeBytes(site: Site, doc: Document & Record<string, unknown>): Promise<void> {
    const sha256 = doc._id.slice("content:".length);
    const about = { kind: "content", schemaVersion: 1, sha256, sizeBytes: bytes.length };
    await configOf(site).bulk([{ ...about, ...doc }], { newEdits: doc._revisions === undefined });
  }

  /** What both have had time to tell each other. */
  async function heal(): Promise<void> {
    const [one, other] = [east, west].map(({ store }) => {
      return new PouchDB(`${store.url}/${databases.config}`, { skip_setup: true });
    }) as [PouchDB.Database, PouchDB.Database];
    await one.replicate.to(other);
    await other.replicate.to(one);
  }

  async function isWhole(site: Site): Promise<void> {
    await eventually(async () => {
      const { status, body } = await site.call("GET", file(layer));
      expect([status, Buffer.isBuffer(body) && body.equals(bytes)]).to.deep.equal([200, true]);
    });
  }

  it("is kept where one uses bytes that the other deletes", async () => {
    await storeBytes(east, { _id: idOf(bytes), _attachments: inline(bytes) });
    await heal();
    expect(await putFile(west)).to.equal(201);
    await east.drops(bytes);
    await heal();
    for (const site of [east, west]) await isWhole(site);
  });

  it("is kept where both store the same bytes, and one deletes them", async () => {
    await east.call("PUT", file(`${layer}-other`), bytes, text);
    await east.call("DELETE", file(`${layer}-other`));
    expect(await putFile(west)).to.equal(201);
    for (let n = 1; n <= 12; n++) await east.call("PUT", `/v1/config/layers/${layer}-other`, { settings: { n } });
    await east.drops(bytes);
    await heal();
    for (const site of [east, west]) await isWhole(site);
  });

  it("is kept where one got the bytes and not the layer that names them", async () => {
    expect(await putFile(west)).to.equal(201);
    const [leaf] = await configOf(west).branches(idOf(bytes));
    const [, first] = leaf?._revisions.ids ?? [];
    // As the link was cut between the two: the bytes as they were before the layer was written.
    await storeBytes(east, {
      _id: idOf(bytes),
      _rev: `1-${first}`,
      _revisions: { start: 1, ids: [first] },
      _attachments: inline(bytes),
    });
    await east.drops(bytes);
    await heal();
    for (const site of [east, west]) await isWhole(site);
  });

  it("is kept where one rolls back to a version that the other lets go", async () => {
    expect(await putFile(east)).to.equal(201);
    await east.call("DELETE", file(layer));
    await heal();
    await eventually(async () => {
      const rollback = await west.call("POST", `/v1/config/layers/${layer}/rollback`, { version: 1 });
      expect(rollback.status).to.equal(200);
    });
    for (let n = 1; n <= 12; n++) await put(east, { n });
    await east.drops(bytes);
    await heal();
    // Nobody merges the layer here; its history has the file either way.
    for (const site of [east, west]) expect(await site.read(idOf(bytes))).to.include({ kind: "content" });
  });

  it("goes everywhere when no site uses it any more, whatever its last revision is", async () => {
    await storeBytes(east, { _id: idOf(bytes), _attachments: inline(bytes) });
    const marker = layerDocument({ a: 1 });
    await configOf(east).put(marker);
    await eventually(async () => {
      expect((await east.call("GET", `/v1/config/layers/${marker.layer}`)).status).to.equal(200);
    });
    const standing = await east.read(idOf(bytes));
    await storeBytes(east, { ...standing, _id: idOf(bytes), usedAt: "2026-01-01T00:00:00.000Z" });
    await heal();
    await east.drops(bytes);
    await heal();
    expect(await west.read(idOf(bytes))).to.equal(undefined);
  });
});
