import { createHash } from "node:crypto";
import { expect } from "chai";
import fc from "fast-check";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { etagOf as contentEtag } from "../../coordinator/config/etag.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("the history of a layer", () => {
  let embedded: Embedded;
  let here: ConfigSite;
  let store: Store;

  before(async () => {
    embedded = await startSiteStore();
    store = new Store(embedded.url);
    here = await startConfigSite({ storeUrl: embedded.url, historyVersions: 15 });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const database = () => store.database<Document & Record<string, unknown>>(databases.config);
  const put = (layer: string, settings: unknown, note?: string) =>
    here.call("PUT", `/v1/config/layers/${layer}`, note === undefined ? { settings } : { settings, note });
  const history = async (layer: string, query = "") =>
    (await here.call("GET", `/v1/config/layers/${layer}/history${query}`)).body;
  const etagOf = async (id: string) => (await here.call("GET", `/v1/components/${id}/config`)).headers.get("etag");

  it("has every version with author, note and what it changed, the newest first", async () => {
    const layer = `type:${fresh("h")}`;
    await put(layer, { a: 1 }, "the first");
    await here.call("PATCH", `/v1/config/layers/${layer}`, { settings: { b: 2 } }, { "muster-user": "ada" });
    await here.call("DELETE", `/v1/config/layers/${layer}`);
    const { versions } = await history(layer);
    expect(versions.map((one: { version: number }) => one.version)).to.deep.equal([3, 2, 1]);
    expect(versions[0]).to.deep.include({ deleted: true, settings: {} });
    expect(versions[1]).to.deep.include({
      changedBy: "ada",
      settings: { a: 1, b: 2 },
      diff: [{ op: "add", path: "/b", value: 2 }],
    });
    expect(versions[2]).to.deep.include({ note: "the first", diff: [{ op: "add", path: "/a", value: 1 }] });
  });

  it("comes in pages", async () => {
    const layer = `type:${fresh("p")}`;
    for (let n = 1; n <= 5; n++) await put(layer, { n });
    const found: number[] = [];
    let cursor: string | undefined;
    do {
      const page = await history(layer, `?limit=2${cursor === undefined ? "" : `&cursor=${cursor}`}`);
      expect(page.versions.length).to.be.at.most(2);
      found.push(...page.versions.map((one: { version: number }) => one.version));
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(found).to.deep.equal([5, 4, 3, 2, 1]);
    const bad = await here.call("GET", `/v1/config/layers/${layer}/history?cursor=nonsense`);
    expect([bad.status, bad.body.code]).to.deep.equal([400, "invalid-request"]);
  });

  it("restores the etag by a rollback of any history, as a new version", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.dictionary(fc.constantFrom("a", "b", "c"), fc.constantFrom<unknown>(1, "x", [1], { d: 1 }, {})), {
          minLength: 2,
          maxLength: 6,
        }),
        fc.nat(),
        async (versions, pick) => {
          const id = fresh("r");
          const etags: (string | null)[] = [];
          for (const settings of versions) {
            await put(`component:${id}`, settings);
            etags.push(await etagOf(id));
          }
          const version = (pick % versions.length) + 1;
          const { status, body } = await here.call("POST", `/v1/config/layers/component:${id}/rollback`, { version });
          expect([status, body.version, body.note]).to.deep.equal([
            200,
            versions.length + 1,
            `rollback to version ${version}`,
          ]);
          expect(await etagOf(id)).to.equal(etags[version - 1]);
        },
      ),
      { numRuns: 15 },
    );
  }).timeout(20_000);

  it("rolls back once for one Idempotency-Key", async () => {
    const layer = `type:${fresh("once")}`;
    for (const n of [1, 2]) await here.call("PUT", `/v1/config/layers/${layer}`, { settings: { n } });
    const key = { "idempotency-key": fresh("key") };
    const rollback = (version: number) => here.call("POST", `/v1/config/layers/${layer}/rollback`, { version }, key);
    const first = await rollback(1);
    expect([first.status, first.body.version]).to.deep.equal([200, 3]);
    expect((await rollback(1)).body).to.deep.equal(first.body);
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).body.version).to.equal(3);
    expect((await rollback(2)).status).to.equal(422);
  });

  it("gives the same effective etag whatever the order in which layers are written", async () => {
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), async (order) => {
        const [id, type, subsystem] = [fresh("o"), fresh("t"), fresh("s")];
        await here.register(id, { type, subsystem });
        const layers = [
          [`subsystem:${subsystem}`, { a: 1, b: { c: 1 } }],
          [`type:${type}`, { a: null, b: { d: 2 }, e: [1] }],
          [`component:${id}`, { b: { c: 3 }, f: "x" }],
        ] as const;
        for (const index of order) await put(...(layers[index] as (typeof layers)[0]));
        const settings = { b: { c: 3, d: 2 }, e: [1], f: "x" };
        expect((await here.call("GET", `/v1/components/${id}/config`)).body).to.deep.equal(settings);
        expect(await etagOf(id)).to.equal(`"${contentEtag(settings)}"`);
      }),
      { numRuns: 6 },
    );
  }).timeout(20_000);

  it("survives a compaction of the database", async () => {
    const layer = `type:${fresh("compact")}`;
    for (const n of [1, 2, 3]) await put(layer, { n });
    const before = await history(layer);
    await store.request({ method: "POST", path: `${databases.config}/_compact`, body: {} });
    await eventually(async () => {
      const { compact_running: running } = await store.request<{ compact_running: boolean }>({
        path: databases.config,
      });
      expect(running).to.equal(false);
    });
    expect(await history(layer)).to.deep.equal(before);
    const { body } = await here.call("POST", `/v1/config/layers/${layer}/rollback`, { version: 1 });
    expect(body.settings).to.deep.equal({ n: 1 });
  });

  it("refuses a rollback to what it does not have", async () => {
    const layer = `type:${fresh("x")}`;
    await put(layer, { a: 1 });
    await here.call("DELETE", `/v1/config/layers/${layer}`);
    const rollback = (version: number) => here.call("POST", `/v1/config/layers/${layer}/rollback`, { version });
    expect([(await rollback(7)).status, (await rollback(2)).status]).to.deep.equal([404, 422]);
    expect((await rollback(1)).body).to.deep.include({ version: 3, settings: { a: 1 } });
  });

  it("keeps what was written straight to the store, quick edits too", async () => {
    const layer = `type:${fresh("straight")}`;
    await put(layer, { n: 1 });
    for (const n of [2, 3, 4]) {
      const stored = await database().get(`layer:${layer}`);
      await database().put({ ...stored, _id: `layer:${layer}`, settings: { n }, version: n });
    }
    await eventually(async () => {
      const { versions } = await history(layer);
      expect(versions.map((one: { settings: { n: number } }) => one.settings.n)).to.deep.equal([4, 3, 2, 1]);
    });
  });

  it("gets by a start what a process wrote and did not come to keep", async () => {
    const layer = `type:${fresh("killed")}`;
    await put(layer, { n: 1 });
    const { versions } = await history(layer);
    const id = `history:${layer}@${versions[0].rev}`;
    const kept = await database().get(id);
    const other = await startEmbedded();
    try {
      // A store as a SIGKILL between the two writes leaves it: the layer, and no history of it.
      const left = new Store(other.url);
      await install(left);
      const { _rev, ...doc } = (await database().get(`layer:${layer}`)) as Document & { _rev: string };
      const [generation, hash] = _rev.split("-");
      await left
        .database<Document>(databases.config)
        .bulk([{ ...doc, _rev, _revisions: { start: Number(generation), ids: [hash] } } as Document], {
          newEdits: false,
        });
      const restarted = await startConfigSite({ storeUrl: other.url });
      await restarted.close();
      expect(await left.database<Document>(databases.config).get(id)).to.deep.equal(kept);
    } finally {
      await other.close();
    }
  });

  /** A store to which someone wrote these versions of a layer while no coordinator ran. */
  async function storeWith(layer: string, versions: object[]): Promise<{ started: Embedded; revs: string[] }> {
    const started = await startEmbedded();
    await install(new Store(started.url));
    const config = new Store(started.url).database<Document & Record<string, unknown>>(databases.config);
    const revs: string[] = [];
    for (const [index, settings] of versions.entries()) {
      const _rev = revs.at(-1);
      const doc = { _id: `layer:${layer}`, kind: "layer", schemaVersion: 1, layer, settings, version: index + 1 };
      const made = { changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "here" };
      revs.push(await config.put({ ...doc, ...made, ...(_rev === undefined ? {} : { _rev }) }));
    }
    return { started, revs };
  }
  const keptAt = ({ configuration }: ConfigSite, layer: `type:${string}`) =>
    configuration.history
      .revisions(layer)
      .map(({ rev }) => rev)
      .reverse();

  it("gets by a start more large versions than one request takes", async () => {
    const large = Array.from({ length: 10 }, (_, n) => ({ n, text: "x".repeat(1_000_000) }));
    const { started, revs } = await storeWith("type:large", large);
    try {
      const site = await startConfigSite({ storeUrl: started.url });
      try {
        expect(keptAt(site, "type:large")).to.deep.equal(revs);
      } finally {
        await site.close();
      }
    } finally {
      await started.close();
    }
  });

  it("does not keep a start from what else there is to do where the store does not take a version, and gets it later", async () => {
    const { started, revs } = await storeWith("type:refused", [{ n: 1 }]);
    const config = new Store(started.url).database<Document & Record<string, unknown>>(databases.config);
    const refusing = {
      _id: "_design/refusing",
      language: "javascript",
      validate_doc_update: 'function (doc) { if (doc.kind === "history") throw { forbidden: "full" }; }',
    };
    const _rev = await config.put(refusing);
    try {
      const site = await startConfigSite({ storeUrl: started.url });
      try {
        expect(keptAt(site, "type:refused")).to.deep.equal([]);
        await config.put({ ...refusing, _rev, _deleted: true });
        await eventually(() => expect(keptAt(site, "type:refused")).to.deep.equal(revs), { timeoutMs: 10_000 });
        expect(await config.get(`history:type:refused@${revs[0]}`)).to.not.equal(undefined);
      } finally {
        await site.close();
      }
    } finally {
      await started.close();
    }
  });

  it("lets the oldest versions go beyond its limit, never the one that stands", async () => {
    const layer = `type:${fresh("many")}`;
    for (let n = 1; n <= 27; n++) await put(layer, { n });
    await eventually(async () => {
      const { versions } = await history(layer);
      expect(versions.map((one: { version: number }) => one.version)).to.deep.equal(
        Array.from({ length: 15 }, (_, index) => 27 - index),
      );
    });
    const stored = await database().list(`history:${layer}@`);
    expect(stored.length).to.equal(15);
    expect((await history(layer)).versions.at(-1).diff).to.equal(undefined);
  }).timeout(20_000);

  describe("with raw content", () => {
    const file = (layer: string, name: string) => `/v1/config/layers/${layer}/content/${name}`;
    const bytes = Buffer.from([0, 255, 1, 254, 10, 13, 0]);

    it("gives back bytes and media type as they came", async () => {
      const layer = `type:${fresh("content")}`;
      const xml = '<?xml version="1.0"?><a/>';
      await put(layer, { a: 1 });
      const written = await here.call("PUT", file(layer, "a.xml"), xml, {
        "content-type": "application/xml; charset=utf-8",
      });
      expect([written.status, written.body.version]).to.deep.equal([200, 2]);
      await here.call("PUT", file(layer, "b.bin"), bytes, { "content-type": "application/octet-stream" });
      const read = await here.call("GET", file(layer, "a.xml"));
      expect([read.headers.get("content-type"), read.body.toString()]).to.deep.equal([
        "application/xml; charset=utf-8",
        xml,
      ]);
      const binary = await here.call("GET", file(layer, "b.bin"));
      expect(binary.body.equals(bytes)).to.equal(true);
      const known = { "if-none-match": binary.headers.get("etag") ?? "" };
      expect((await here.call("GET", file(layer, "b.bin"), undefined, known)).status).to.equal(304);
      const { body } = await here.call("GET", `/v1/config/layers/${layer}`);
      expect(body.content.map((one: { file: string; sizeBytes: number }) => [one.file, one.sizeBytes])).to.deep.equal([
        ["a.xml", xml.length],
        ["b.bin", 7],
      ]);
    });

    it("is another when the same bytes have another media type", async () => {
      const layer = `type:${fresh("content")}`;
      const write = (type: string) => here.call("PUT", file(layer, "a"), bytes, { "content-type": type });
      await write("text/plain");
      const known = { "if-none-match": (await here.call("GET", file(layer, "a"))).headers.get("etag") ?? "" };
      await write("image/png");
      const read = await here.call("GET", file(layer, "a"), undefined, known);
      expect([read.status, read.headers.get("content-type")]).to.deep.equal([200, "image/png"]);
    });

    it("leaves nothing in the store where the layer is another than the caller expects", async () => {
      const layer = `type:${fresh("content")}`;
      await put(layer, { a: 1 });
      const unwritten = Buffer.from(`never written ${layer}`);
      const stale = { "content-type": "text/plain", "if-match": `"1-${"0".repeat(32)}"` };
      expect((await here.call("PUT", file(layer, "f.txt"), unwritten, stale)).status).to.equal(412);
      const sha256 = createHash("sha256").update(unwritten).digest("hex");
      expect(await database().get(`content:${sha256}`)).to.equal(undefined);
    });

    it("refuses a 65th file, which no waiting makes room for", async () => {
      const layer = `type:${fresh("content")}`;
      const write = (n: number) => here.call("PUT", file(layer, `f${n}`), bytes, { "content-type": "text/plain" });
      for (let n = 1; n <= 64; n++) expect((await write(n)).status).to.be.oneOf([200, 201]);
      const { status, body } = await write(65);
      expect([status, body.code]).to.deep.equal([422, "refused"]);
      expect(body.detail).to.match(/"f65" would be one file too many: .* has 64/);
      expect((await write(64)).status).to.equal(200);
    });

    it("survives a write of settings, goes with a DELETE, and comes back by a rollback", async () => {
      const layer = `type:${fresh("content")}`;
      await here.call("PUT", file(layer, "b.bin"), bytes, { "content-type": "image/png" });
      await put(layer, { a: 1 });
      expect((await here.call("GET", file(layer, "b.bin"))).status).to.equal(200);
      expect((await here.call("DELETE", file(layer, "b.bin"))).status).to.equal(204);
      expect((await here.call("GET", file(layer, "b.bin"))).status).to.equal(404);
      await here.call("POST", `/v1/config/layers/${layer}/rollback`, { version: 2 });
      const read = await here.call("GET", file(layer, "b.bin"));
      expect([read.headers.get("content-type"), read.body.equals(bytes)]).to.deep.equal(["image/png", true]);
    });

    it("refuses names, media types and sizes that cannot be", async () => {
      const layer = `type:${fresh("content")}`;
      const status = async (name: string, body: Buffer, type: string) =>
        (await here.call("PUT", file(layer, name), body, { "content-type": type })).status;
      expect(await status("..%2Fx", bytes, "a/b")).to.equal(400);
      expect(await status("_id", bytes, "a/b")).to.equal(400);
      expect(await status("a", bytes, "nonsense")).to.equal(400);
      expect(await status("a", Buffer.alloc(1024 * 1024 + 1), "a/b")).to.equal(413);
      expect((await here.call("GET", `/v1/config/layers/${layer}`)).status).to.equal(404);
    });
  });
});
