import { randomBytes } from "node:crypto";
import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases, documentId, type LayerName } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { openStream } from "../support/open-stream.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("a coordinator that has not heard yet what another of its site wrote", () => {
  let embedded: Embedded;
  let other: ConfigSite;
  let late: ConfigSite;
  let isLate = false;

  before(async () => {
    embedded = await startSiteStore();
    const secretKey = randomBytes(32);
    other = await startConfigSite({ storeUrl: embedded.url, secretKey });
    late = await startConfigSite({ storeUrl: embedded.url, secretKey, leads: () => false, hears: () => !isLate });
  });
  beforeEach(() => {
    isLate = true;
  });
  after(async () => {
    await late?.close();
    await other?.close();
    await embedded?.close();
  });

  const database = () => new Store(embedded.url).database<Document & { version: number }>(databases.config);

  describe("and is given a secret's former value", () => {
    const putSecret = async (at: ConfigSite, name: string, value: string) =>
      (await at.call("PUT", `/v1/config/secrets/${name}`, { value })).status;
    const versionOf = async (name: string) => (await database().get(documentId.secret(name)))?.version;

    it("writes it", async () => {
      const name = fresh("secret");
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await putSecret(other, name, "two")).to.equal(204);
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await versionOf(name)).to.equal(3);
    });

    it("writes it over what is no secret", async () => {
      const name = fresh("secret");
      expect(await putSecret(late, name, "one")).to.equal(204);
      const stored = await database().get(documentId.secret(name));
      await database().bulk([{ ...stored, sealed: {}, version: 7 } as unknown as Document & { version: number }]);
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await database().get(documentId.secret(name))).to.have.nested.property("sealed.ciphertext");
    });

    it("writes nothing where the value is the same in the store", async () => {
      const name = fresh("secret");
      for (const at of [late, other, late]) expect(await putSecret(at, name, "one")).to.equal(204);
      expect(await versionOf(name)).to.equal(1);
    });
  });

  describe("and is asked to", () => {
    const put = (layer: string, settings: object) => other.call("PUT", `/v1/config/layers/${layer}`, { settings });
    const stage = async (layer: string) => {
      const write = { settings: { staged: true }, selector: { percent: 100 } };
      const { status } = await other.call("PUT", `/v1/config/layers/${layer}/candidate`, write);
      expect(status).to.be.oneOf([200, 201]);
    };
    const rollback = (layer: string, version: number) =>
      late.call("POST", `/v1/config/layers/${layer}/rollback`, { version });

    it("roll back, goes to a version of it", async () => {
      const layer = `type:${fresh("t")}`;
      for (const n of [1, 2, 3]) await put(layer, { n });
      const { status, body } = await rollback(layer, 2);
      expect([status, body.version, body.settings]).to.deep.equal([200, 4, { n: 2 }]);
    });

    it("roll back to what nobody wrote, says so", async () => {
      const layer = `type:${fresh("t")}`;
      await put(layer, { n: 1 });
      const { status, body } = await rollback(layer, 7);
      expect([status, body.detail]).to.deep.equal([
        404,
        `layer ${layer} has no version 7 in its history; it has 1 to 1`,
      ]);
    });

    it("roll back to what another let go of, says so", async () => {
      const name: LayerName = `type:${fresh("t")}`;
      for (const n of [1, 2, 3]) await late.call("PUT", `/v1/config/layers/${name}`, { settings: { n } });
      await other.configuration.history.refresh(name);
      await other.configuration.history.forget(name, other.configuration.history.revisions(name).slice(2));
      const { status, body } = await rollback(name, 1);
      expect([status, body.detail]).to.deep.equal([
        404,
        `layer ${name} has no version 1 in its history; it has 2 to 3`,
      ]);
    });

    it("promote a candidate, does it", async () => {
      const layer = `type:${fresh("t")}`;
      await put(layer, { a: 1 });
      await stage(layer);
      const { status, body } = await late.call("POST", `/v1/config/layers/${layer}/candidate/promote`, {});
      expect([status, body.version, body.settings]).to.deep.equal([200, 2, { staged: true }]);
    });

    it("promote a candidate that became stale, refuses it", async () => {
      const layer = `type:${fresh("t")}`;
      await stage(layer);
      await put(layer, { a: 1 });
      const { status, body } = await late.call("POST", `/v1/config/layers/${layer}/candidate/promote`, {});
      expect([status, body.code]).to.deep.equal([409, "conflict"]);
    });

    it("take a candidate back, does it", async () => {
      const layer = `type:${fresh("t")}`;
      await stage(layer);
      expect((await late.call("DELETE", `/v1/config/layers/${layer}/candidate`)).status).to.equal(204);
    });

    for (const [what, path, body] of [
      ["layer", () => `layers/type:${fresh("t")}`, { settings: {} }],
      ["schema", () => `schemas/${fresh("t")}`, { type: "object" }],
      ["secret", () => `secrets/${fresh("secret")}`, { value: "one" }],
    ] as const) {
      it(`delete a ${what}, does it, once`, async () => {
        const url = `/v1/config/${path()}`;
        expect((await other.call("PUT", url, body)).status).to.be.oneOf([201, 204]);
        expect((await late.call("DELETE", url)).status).to.equal(204);
        expect((await other.call("DELETE", url)).status).to.equal(404);
      });
    }
  });
});

describe("a coordinator whose changes feed is behind", () => {
  let embedded: Embedded;
  let other: ConfigSite;
  let behind: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    const secretKey = randomBytes(32);
    other = await startConfigSite({ storeUrl: embedded.url, secretKey });
    behind = await startConfigSite({ storeUrl: embedded.url, secretKey, leads: () => false, hears: () => "late" });
  });
  after(async () => {
    await behind?.close();
    await other?.close();
    await embedded?.close();
  });

  it("refuses nothing over what another has just put right, nor calls it invalid", async () => {
    const type = fresh("t");
    const [schema, layer] = [`/v1/config/schemas/${type}`, `/v1/config/layers/type:${type}`];
    const requires = (...required: string[]) => ({ type: "object", required });
    const settings = { a: 1, password: { $secret: `password-of-${type}` } };
    await other.register(`c-of-${type}`, { type });
    await eventually(() => expect(behind.member.registry.get(`c-of-${type}`)).to.not.equal(undefined));
    const done = async (at: ConfigSite, path: string, body: object) => {
      const { status, body: answer } = await at.call("PUT", path, body);
      expect(status, answer.detail).to.be.oneOf([200, 201, 204]);
    };

    await done(other, `/v1/config/secrets/password-of-${type}`, { value: "s" });
    await done(behind, layer, { settings });
    await done(other, schema, requires("a"));
    await done(behind, layer, { settings });
    await done(other, layer, { settings: { a: 1, b: 2 } });
    await done(behind, schema, requires("b"));
    await done(other, schema, requires());
    const { body } = await behind.call("POST", "/v1/config/validate", { layer: `type:${type}`, settings: {} });
    expect(body.valid).to.equal(true);
    await done(behind, layer, { settings: {} });
  });

  describe("tells who had settings of another coordinator", () => {
    const write = async (id: string, n: number) =>
      expect((await other.call("PUT", `/v1/config/layers/component:${id}`, { settings: { n } })).status).to.be.oneOf([
        200, 201,
      ]);
    const read = (at: ConfigSite, id: string, headers: Record<string, string> = {}) =>
      at.call("GET", `/v1/components/${id}/config`, undefined, headers);
    const etagAt = async (at: ConfigSite, id: string) => (await read(at, id)).headers.get("etag") ?? "";

    it("nothing older by a poll", async () => {
      const id = fresh("c");
      await write(id, 1);
      const newer = await etagAt(other, id);
      const { status, headers } = await read(behind, id, { "if-none-match": newer });
      expect([status, headers.get("etag")]).to.deep.equal([304, newer]);
    });

    it("nothing older by a stream", async () => {
      const id = fresh("c");
      await write(id, 1);
      const newer = (await etagAt(other, id)).replaceAll('"', "");
      const stream = await openStream(`${behind.url}/v1/components/${id}/config`, { "last-event-id": newer });
      await write(id, 2);
      await behind.call("POST", "/v1/config/validate", { layer: "platform", settings: {} });
      await eventually(() => expect(stream.data().map(({ settings }) => settings)).to.deep.include({ n: 2 }));
      expect(stream.data().map(({ settings }) => settings)).to.deep.equal([{ n: 2 }]);
      await stream.close();
    });

    it("nothing older where settings of before came back", async () => {
      const id = fresh("c");
      const before = await etagAt(other, id);
      await behind.register(id);
      expect(await etagAt(behind, id)).to.equal(before);
      const path = `/v1/config/layers/component:${id}`;
      expect((await behind.call("PUT", path, { settings: { n: 1 } })).status).to.equal(201);
      expect((await other.call("DELETE", path)).status).to.equal(204);
      expect((await read(behind, id, { "if-none-match": before })).status).to.equal(304);
    });
  });
});
