import { expect } from "chai";
import { PortTaken, startEmbedded } from "../../config-db/embedded/server.ts";
import { ask, describeStores, useStore } from "../support/embedded.ts";

describeStores("a server", (store) => {
  it("welcomes with the version of CouchDB that it speaks for", async () => {
    const { status, body } = await store.ask("GET", "/");
    expect(status).to.equal(200);
    expect(body).to.include({ couchdb: "Welcome", version: "3.5.0" });
    expect(body.uuid).to.match(/^[0-9a-f-]{32,36}$/);
    expect((await store.ask("GET", "/_up")).body).to.include({ status: "ok" });
  });

  it("makes a database once, lists it and deletes it once", async () => {
    const name = await store.database();
    const again = await store.ask("PUT", `/${name}`);
    expect([again.status, again.body.error]).to.deep.equal([412, "file_exists"]);
    expect((await store.ask("GET", "/_all_dbs")).body).to.include(name);
    expect((await store.ask("GET", `/${name}`)).body).to.include({ db_name: name, doc_count: 0 });
    expect((await store.ask("DELETE", `/${name}`)).body).to.deep.equal({ ok: true });
    for (const method of ["GET", "DELETE"]) {
      const gone = await store.ask(method, `/${name}`);
      expect([gone.status, gone.body]).to.deep.equal([404, { error: "not_found", reason: "Database does not exist." }]);
    }
    expect((await store.ask("GET", "/_all_dbs")).body).to.not.include(name);
  });

  it("forgets what was in a database when it is deleted", async () => {
    const name = await store.database();
    await store.ask("PUT", `/${name}/a`, { body: {} });
    await store.ask("DELETE", `/${name}`);
    await store.ask("PUT", `/${name}`);
    expect((await store.ask("GET", `/${name}`)).body.doc_count).to.equal(0);
    expect((await store.ask("GET", `/${name}/a`)).status).to.equal(404);
  });

  it("takes a database's name with a slash in it, and no name that CouchDB would not take", async () => {
    const plain = await store.database();
    const slashed = `/${encodeURIComponent(`${plain}/${"x".repeat(20)}$()+-_`)}`;
    expect((await store.ask("PUT", slashed)).status).to.equal(201);
    expect((await store.ask("PUT", `${slashed}/a`, { body: {} })).status).to.equal(201);
    expect((await store.ask("DELETE", slashed)).status).to.equal(200);
    for (const name of ["Upper", "9first", "has space", "..", "a.b", "ü"]) {
      const refused = await store.ask("PUT", `/${encodeURIComponent(name)}`.replace("..", "%2E%2E%2F"));
      expect([refused.status, refused.body.error], name).to.deep.equal([400, "illegal_database_name"]);
    }
  });

  it("hands out unique ids, as many as are asked for within the limit", async () => {
    const { body } = await store.ask("GET", "/_uuids?count=100");
    expect(new Set(body.uuids).size).to.equal(100);
    expect((await store.ask("GET", "/_uuids?count=1001")).status).to.equal(400);
  });

  it("says which methods a path takes", async () => {
    const name = await store.database();
    for (const path of [`/${name}`, `/${name}/doc`, `/${name}/_all_docs`, "/_all_dbs"]) {
      const refused = await store.ask("PATCH", path);
      expect([refused.status, refused.body.error], path).to.deep.equal([405, "method_not_allowed"]);
      expect(refused.headers.get("allow")).to.include("GET");
    }
  });

  it("takes bodies of the database's own routes only when they are declared as JSON", async () => {
    const name = await store.database();
    const refused = await store.ask("POST", `/${name}/_bulk_docs`, {
      body: '{"docs":[]}',
      headers: { "content-type": "text/plain" },
    });
    expect([refused.status, refused.body.error]).to.deep.equal([415, "bad_content_type"]);
  });

  it("keeps a revision limit and a security object per database", async () => {
    const name = await store.database();
    expect((await store.ask("GET", `/${name}/_revs_limit`)).body).to.equal(1000);
    await store.ask("PUT", `/${name}/_revs_limit`, { body: "3" });
    expect((await store.ask("GET", `/${name}/_revs_limit`)).body).to.equal(3);
    let rev: string | undefined;
    for (let n = 0; n < 6; n += 1) {
      rev = (await store.ask("PUT", `/${name}/a`, { body: { n, ...(rev !== undefined && { _rev: rev }) } })).body.rev;
    }
    expect((await store.ask("GET", `/${name}/a?revs=true`)).body._revisions.ids).to.have.lengthOf(3);
    const security = { admins: { names: ["x"], roles: [] }, members: { names: [], roles: ["y"] } };
    expect((await store.ask("PUT", `/${name}/_security`, { body: security })).body).to.deep.equal({ ok: true });
    expect((await store.ask("GET", `/${name}/_security`)).body).to.deep.equal(security);
  });

  it("takes changes of its limit and its security object that come at once", async () => {
    const name = await store.database();
    const put = (path: string, body: unknown) => store.ask("PUT", `/${name}/${path}`, { body: JSON.stringify(body) });
    const security = { admins: { names: ["x"], roles: [] }, members: { names: [], roles: ["y"] } };
    const answers = await Promise.all([
      ...[7, 7, 7, 1000, 8].map((limit) => put("_revs_limit", limit)),
      put("_security", security),
    ]);
    expect(answers.map(({ status }) => status)).to.deep.equal([200, 200, 200, 200, 200, 200]);
    expect([7, 8, 1000]).to.include((await store.ask("GET", `/${name}/_revs_limit`)).body);
    expect((await store.ask("GET", `/${name}/_security`)).body).to.deep.equal(security);
    expect((await put("_revs_limit", 9)).status).to.equal(200);
    expect((await store.ask("GET", `/${name}/_revs_limit`)).body).to.equal(9);
  });

  it("compacts in the background: old bodies go, histories stay", async () => {
    const name = await store.database();
    const first = (await store.ask("PUT", `/${name}/a`, { body: { n: 1 } })).body.rev;
    await store.ask("PUT", `/${name}/a`, { body: { n: 2, _rev: first } });
    expect((await store.ask("POST", `/${name}/_compact`)).status).to.equal(202);
    expect((await store.ask("POST", `/${name}/_ensure_full_commit`)).status).to.equal(201);
    expect((await store.ask("POST", `/${name}/_view_cleanup`)).status).to.equal(202);
    expect((await store.ask("GET", `/${name}/a?revs=true`)).body).to.deep.include({ n: 2 });
  });
});

describe("the embedded server", () => {
  const store = useStore();

  it("says of what it does not serve that it does not, and what does", async () => {
    for (const [method, path] of [
      ["POST", "/_replicate"],
      ["GET", "/_replicator/_all_docs"],
      ["PUT", "/_users"],
      ["GET", "/_node/_local/_config"],
      ["POST", "/_session"],
    ] as const) {
      const { status, body } = await store.ask(method, path);
      expect([status, body.error], path).to.deep.equal([404, "not_found"]);
      expect(body.reason).to.match(/not served by the embedded database.*MUSTER_COUCHDB_URL/);
    }
  });

  it("names the port that is taken, and how to choose another", async () => {
    const port = Number(new URL(store.url).port);
    const error = await startEmbedded({ port }).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).to.be.instanceOf(PortTaken);
    expect((error as PortTaken).message)
      .to.include(String(port))
      .and.include("MUSTER_COUCHDB_PORT");
  });

  it("shares nothing with another one in the same process", async () => {
    const other = await startEmbedded();
    try {
      const name = await store.database();
      await store.ask("PUT", `/${name}/a`, { body: {} });
      expect((await ask(other.url, "GET", "/_all_dbs")).body).to.deep.equal([]);
      expect((await ask(other.url, "PUT", `/${name}`)).status).to.equal(201);
      expect((await ask(other.url, "GET", `/${name}/a`)).status).to.equal(404);
    } finally {
      await other.close();
    }
  });

  it("can be closed twice", async () => {
    const other = await startEmbedded();
    await Promise.all([other.close(), other.close()]);
    await other.close();
  });
});

describe("an embedded server with credentials", () => {
  const store = useStore(() => startEmbedded({ credentials: { user: "op", password: "pä:ss" } }));
  const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString("base64")}` });

  it("serves only whoever brings them", async () => {
    for (const headers of [{}, basic("op:wrong"), basic("op"), basic("other:pä:ss"), { authorization: "Bearer x" }]) {
      const refused = await store.ask("GET", "/_all_dbs", { headers: headers as Record<string, string> });
      expect([refused.status, refused.body.error]).to.deep.equal([401, "unauthorized"]);
      expect(refused.headers.get("www-authenticate")).to.match(/^Basic/);
      expect((await store.ask("PUT", "/newdb", { headers: headers as Record<string, string> })).status).to.equal(401);
    }
    const served = await store.ask("GET", "/_session", { headers: basic("op:pä:ss") });
    expect(served.body.userCtx).to.deep.equal({ name: "op", roles: ["_admin"] });
  });

  it("has no session to offer, so that CouchDB's replicator goes on with Basic", async () => {
    expect((await store.ask("POST", "/_session", { body: { name: "op", password: "x" } })).status).to.equal(404);
  });
});
