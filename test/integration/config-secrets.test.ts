import { randomBytes } from "node:crypto";
import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { openStream } from "../support/open-stream.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("secrets", () => {
  const secretKey = randomBytes(32);
  const value = `s3cret-${randomBytes(6).toString("hex")}`;
  let embedded: Embedded;
  let here: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({ storeUrl: embedded.url, secretKey });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const putSecret = (name: string, text: string) => here.call("PUT", `/v1/config/secrets/${name}`, { value: text });
  const put = (layer: string, settings: unknown) => here.call("PUT", `/v1/config/layers/${layer}`, { settings });

  /** A component whose settings refer to a secret. */
  async function user() {
    const [name, id, type] = [fresh("password"), fresh("c"), fresh("t")];
    await here.register(id, { type });
    await putSecret(name, value);
    const { status } = await put(`type:${type}`, {
      database: { user: "u", password: { $secret: name } },
      list: [{ $secret: name }],
    });
    expect(status).to.equal(201);
    return { name, id, type };
  }

  it("are resolved in what the component fetches, and nowhere else", async () => {
    const { name, id, type } = await user();
    const { body } = await here.call("GET", `/v1/components/${id}/config`);
    expect(body).to.deep.equal({ database: { user: "u", password: value }, list: [value] });
    await putSecret(name, `${value}-2`);
    await put(`type:${type}`, { database: { user: "v", password: { $secret: name } } });
    for (const [method, path, request] of [
      ["GET", `/v1/components/${id}/config?explain=true`, undefined],
      ["GET", `/v1/config/layers/type:${type}`, undefined],
      ["GET", `/v1/config/layers/type:${type}/history`, undefined],
      ["GET", "/v1/config/secrets", undefined],
      ["GET", `/v1/config/secrets/${name}`, undefined],
      ["GET", "/v1/config/status", undefined],
      ["POST", "/v1/config/validate", { layer: `component:${id}`, settings: { x: 1 } }],
    ] as const) {
      const answer = await here.call(method, path, request);
      expect(answer.status, path).to.equal(200);
      expect(JSON.stringify(answer.body), path).to.not.include("s3cret");
    }
    const stored = await new Store(embedded.url).database<Document>(databases.config).list("");
    expect(JSON.stringify(stored)).to.include(`secret:${name}`).and.to.not.include("s3cret");
  });

  it("stream to the component resolved", async () => {
    const { id } = await user();
    const abort = new AbortController();
    const answer = await fetch(`${here.url}/v1/components/${id}/config`, {
      headers: { accept: "text/event-stream" },
      signal: abort.signal,
    });
    const reader = answer.body?.getReader();
    const first = await reader?.read();
    abort.abort();
    expect(Buffer.from(first?.value ?? []).toString())
      .to.match(/^id: .*\nevent: config\ndata: /)
      .and.include(value);
  });

  it("change the etag when they change, not when they are set to what they are", async () => {
    const { name, id } = await user();
    const etag = async () => (await here.call("GET", `/v1/components/${id}/config`)).headers.get("etag");
    const first = await etag();
    await putSecret(name, value);
    expect(await etag()).to.equal(first);
    await putSecret(name, "another");
    const second = await etag();
    expect(second).to.not.equal(first);
    await putSecret(name, value);
    expect(await etag()).to.not.be.oneOf([first, second]);
  });

  it("wake the components that use them", async () => {
    const { name, id } = await user();
    const first = await here.call("GET", `/v1/components/${id}/config`);
    const known = { "if-none-match": first.headers.get("etag") ?? "" };
    const waiting = here.call("GET", `/v1/components/${id}/config?waitMs=20000`, undefined, known);
    await putSecret(name, "rotated");
    expect((await waiting).body.database.password).to.equal("rotated");
  });

  it("are checked by the schema as what they are, and the refusal does not tell them", async () => {
    const { name, type } = await user();
    const schema = (minLength: number) => ({
      properties: { database: { properties: { password: { type: "string", minLength } } } },
    });
    expect((await here.call("PUT", `/v1/config/schemas/${type}`, schema(3))).status).to.equal(201);
    const answer = await here.call("PUT", `/v1/config/schemas/${type}`, schema(500));
    expect([answer.status, answer.body.errors[0].pointer]).to.deep.equal([422, "/database/password"]);
    expect(JSON.stringify(answer.body)).to.not.include("s3cret");
    expect(name).to.match(/^password/);
  });

  it("do not take a value that the schema of a component refuses", async () => {
    const { name, id, type } = await user();
    const password = { type: "string", minLength: 8 };
    const database = { type: "object", properties: { password } };
    await here.call("PUT", `/v1/config/schemas/${type}`, { type: "object", properties: { database } });
    const refused = await putSecret(name, "short");
    expect([refused.status, refused.body.errors[0].component]).to.deep.equal([422, id]);
    expect(refused.body.errors[0].pointer).to.equal("/database/password");
    expect(JSON.stringify(refused.body)).not.to.include("short");
    expect((await here.call("GET", `/v1/components/${id}/config`)).body.database.password).to.equal(value);
    expect((await putSecret(name, "long enough")).status).to.equal(204);
  });

  it("cannot be referred to before they are there, nor deleted while they are", async () => {
    const missing = await put(`component:${fresh("c")}`, { a: { $secret: "nobody" } });
    expect([missing.status, missing.body.errors[0].rule]).to.deep.equal([422, "secret"]);
    const { name, id } = await user();
    const kept = await here.call("DELETE", `/v1/config/secrets/${name}`);
    expect([kept.status, kept.body.code]).to.deep.equal([422, "refused"]);
    expect(kept.body.detail).to.include(id);
    await putSecret("unused", "x");
    expect((await here.call("DELETE", "/v1/config/secrets/unused")).status).to.equal(204);
    expect((await here.call("DELETE", "/v1/config/secrets/unused")).status).to.equal(404);
  });

  describe("that stand behind staged candidates", () => {
    const candidate = (layer: string) => `/v1/config/layers/${layer}/candidate`;
    const stage = (layer: string, settings: unknown) =>
      here.call("PUT", candidate(layer), { settings, selector: { percent: 100 } });

    it("cannot be deleted", async () => {
      const { name, id, type } = await user();
      expect((await stage(`type:${type}`, { other: true })).status).to.equal(201);
      const kept = await here.call("DELETE", `/v1/config/secrets/${name}`);
      expect([kept.status, kept.body.code]).to.deep.equal([422, "refused"]);
      expect(kept.body.detail).to.include(id);
      await here.call("DELETE", candidate(`type:${type}`));
      expect((await here.call("GET", `/v1/components/${id}/config`)).body.list).to.deep.equal([value]);
    });

    it("cannot be deleted when one of two candidates hides the other's reference", async () => {
      const [name, id, type, subsystem] = [fresh("password"), fresh("c"), fresh("t"), fresh("s")];
      await here.register(id, { type, subsystem });
      await putSecret(name, value);
      expect((await stage(`subsystem:${subsystem}`, { a: { $secret: name } })).status).to.equal(201);
      expect((await stage(`type:${type}`, { a: "none" })).status).to.equal(201);
      expect((await here.call("DELETE", `/v1/config/secrets/${name}`)).status).to.equal(422);
    });

    it("take no value that the schema refuses there", async () => {
      const { name, id, type } = await user();
      const database = { properties: { password: { type: "string", minLength: 5 } } };
      await here.call("PUT", `/v1/config/schemas/${type}`, { properties: { database } });
      expect((await stage(`type:${type}`, { other: true })).status).to.equal(201);
      const refused = await putSecret(name, "no");
      expect([refused.status, refused.body.errors[0].component]).to.deep.equal([422, id]);
      await here.call("DELETE", candidate(`type:${type}`));
      expect((await here.call("GET", `/v1/components/${id}/config`)).body.list).to.deep.equal([value]);
    });
  });

  it("are a clear error, not settings without them, at a site that has no key or another one", async () => {
    const { id } = await user();
    for (const options of [{}, { secretKey: randomBytes(32) }]) {
      const there = await startConfigSite({ storeUrl: embedded.url, ...options });
      try {
        const answer = await there.call("GET", `/v1/components/${id}/config`);
        expect([answer.status, answer.body.code]).to.deep.equal([422, "refused"]);
        expect(answer.body.detail).to.include("MUSTER_SECRET_KEY");
      } finally {
        await there.close();
      }
    }
  });

  it("that cannot be opened are not judged by the schema, which would see the reference in their place", async () => {
    const [name, type] = [fresh("password"), fresh("t")];
    await here.register(fresh("c"), { type });
    await putSecret(name, value);
    const schema = { properties: { password: { type: "string", minLength: 5 } } };
    expect((await here.call("PUT", `/v1/config/schemas/${type}`, schema)).status).to.equal(201);
    const there = await startConfigSite({ storeUrl: embedded.url });
    try {
      const settings = { password: { $secret: name } };
      const written = await there.call("PUT", `/v1/config/layers/type:${type}`, { settings });
      expect(written.status, JSON.stringify(written.body)).to.equal(201);
    } finally {
      await there.close();
    }
  });

  it("that cannot be opened are listed with the components that refer to them, and hinder no write", async () => {
    const { name, id, type } = await user();
    const database = new Store(embedded.url).database<Document>(databases.config);
    const stored = (await database.get(`secret:${name}`)) as Document & { version: number };
    const broken = { iv: "AA==", tag: "AA==", ciphertext: "AA==" };
    await database.put({ ...stored, version: stored.version + 1, sealed: broken } as Document);
    const faults = async () => {
      const { body } = await here.call("GET", "/v1/config/faults");
      return body.faults.filter(({ component }: { component?: string }) => component === id);
    };
    await eventually(async () => expect(await faults()).to.have.length(1));
    const [{ kind, errors }] = await faults();
    expect([kind, errors[0].pointer, errors[0].rule]).to.deep.equal(["invalid", "/database/password", "secret"]);
    expect((await here.call("GET", `/v1/components/${id}/config`)).status).to.equal(422);
    expect((await put(`type:${type}`, { other: { $secret: name } })).status).to.equal(200);
    await putSecret(name, value);
    expect(await faults()).to.deep.equal([]);
  });

  it("that are there no more are told of on a stream, as by a GET, and when they are there again", async () => {
    const { name, id } = await user();
    const stream = await openStream(`${here.url}/v1/components/${id}/config`);
    await eventually(() => expect(stream.data()).to.have.length(1));
    const database = new Store(embedded.url).database<Document>(databases.config);
    await database.put({ ...((await database.get(`secret:${name}`)) as Document), _deleted: true });
    await eventually(() => expect(stream.text()).to.include("event: fault"));
    const { body } = await here.call("GET", `/v1/components/${id}/config`);
    expect(stream.data()[1]).to.deep.equal(body);
    const late = await openStream(`${here.url}/v1/components/${id}/config`, { "last-event-id": stream.data()[0].etag });
    await eventually(() => expect(late.data()).to.deep.equal([body]));
    await putSecret(name, "another");
    for (const reader of [stream, late]) {
      await eventually(() =>
        expect(reader.data().at(-1)).to.have.nested.property("settings.database.password", "another"),
      );
      await reader.close();
    }
  });

  for (const body of [
    '"s3cret"',
    "s3cret",
    '{"value":"s3cret"',
    '{"s3cret":1}',
    '["s3cret"]',
    '{"value":["s3cret"]}',
  ]) {
    it(`are not told in the refusal of ${body}`, async () => {
      const answer = await here.call("PUT", `/v1/config/secrets/${fresh("refused")}`, body);
      expect(answer.status).to.equal(400);
      expect(JSON.stringify(answer.body)).to.not.include("s3cret");
    });
  }

  it("are refused as a number without telling it, but what is wrong and where", async () => {
    const { body } = await here.call("PUT", `/v1/config/secrets/${fresh("refused")}`, { value: 4711 });
    expect([body.code, body.errors[0].pointer, body.errors[0].rule]).to.deep.equal([
      "invalid-request",
      "/value",
      "type",
    ]);
    expect(JSON.stringify(body)).to.not.include("4711");
  });

  it("are refused with a name or value that cannot be", async () => {
    expect((await putSecret("A%20b", "x")).status).to.equal(400);
    expect((await here.call("PUT", "/v1/config/secrets/a", { value: 1 })).status).to.equal(400);
    expect((await putSecret("a", "x".repeat(70_000))).status).to.equal(400);
  });
});
