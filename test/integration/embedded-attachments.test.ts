import { expect } from "chai";
import { describeStores } from "../support/embedded.ts";

/** Every byte there is, and the bytes that multipart bodies are cut at. */
const bytes = Buffer.concat([
  Buffer.from(Array.from({ length: 256 }, (_, value) => value)),
  Buffer.from("\r\n--x--\r\n"),
]);
const binary = { "content-type": "application/octet-stream" };

describeStores("an attachment", (store) => {
  const getBytes = async (path: string) => {
    const { status, headers, body } = await store.ask("GET", path);
    return { status, headers, body };
  };

  it("is stored and read with its own type and bytes", async () => {
    const db = await store.database();
    const made = await store.ask("PUT", `/${db}/doc/a.bin`, { body: bytes, headers: binary });
    expect([made.status, made.body.id]).to.deep.equal([201, "doc"]);
    const inline = await store.ask("GET", `/${db}/doc?attachments=true`);
    expect(Buffer.from(inline.body._attachments["a.bin"].data, "base64").equals(bytes)).to.equal(true);
    await store.ask("PUT", `/${db}/text/note.xml`, { body: "<a>ü</a>", headers: { "content-type": "text/xml" } });
    const text = await getBytes(`/${db}/text/note.xml`);
    expect([text.status, text.body, text.headers.get("content-type")]).to.deep.equal([200, "<a>ü</a>", "text/xml"]);
    const etag = text.headers.get("etag") as string;
    expect((await store.ask("GET", `/${db}/text/note.xml`, { headers: { "if-none-match": etag } })).status).to.equal(
      304,
    );
  });

  it("stands in its document as a stub, and stays when the document is written with the stub", async () => {
    const db = await store.database();
    const made = await store.ask("PUT", `/${db}/doc/a.txt`, {
      body: "hello",
      headers: { "content-type": "text/plain" },
    });
    const { body: doc } = await store.ask("GET", `/${db}/doc`);
    expect(doc._attachments["a.txt"]).to.include({ content_type: "text/plain", length: 5, revpos: 1, stub: true });
    const kept = await store.ask("PUT", `/${db}/doc`, {
      body: { _rev: made.body.rev, _attachments: { "a.txt": { stub: true } } },
    });
    expect(kept.status).to.equal(201);
    expect((await store.ask("GET", `/${db}/doc/a.txt`)).body).to.equal("hello");
    await store.ask("PUT", `/${db}/doc`, { body: { _rev: kept.body.rev } });
    expect((await store.ask("GET", `/${db}/doc/a.txt`)).status).to.equal(404);
  });

  it("can come inside a document, as base64", async () => {
    const db = await store.database();
    const _attachments = { "x/y z.bin": { content_type: "image/png", data: bytes.toString("base64") } };
    await store.ask("PUT", `/${db}/doc`, { body: { _attachments } });
    const read = await store.ask("GET", `/${db}/doc/${encodeURIComponent("x/y z.bin")}`);
    expect([read.status, read.headers.get("content-type")]).to.deep.equal([200, "image/png"]);
    expect((await store.ask("GET", `/${db}/doc/x/y%20z.bin`)).status).to.equal(200);
  });

  it("is replaced and deleted over the document's revision only", async () => {
    const db = await store.database();
    const path = `/${db}/doc/a.txt`;
    const headers = { "content-type": "text/plain" };
    const first = (await store.ask("PUT", path, { body: "1", headers })).body.rev;
    expect((await store.ask("PUT", path, { body: "2", headers })).status).to.equal(409);
    const second = (await store.ask("PUT", `${path}?rev=${first}`, { body: "2", headers })).body.rev;
    expect((await store.ask("DELETE", `${path}?rev=${first}`)).status).to.equal(409);
    expect((await store.ask("DELETE", `${path}?rev=${second}`)).status).to.equal(200);
    expect((await store.ask("GET", path)).status).to.equal(404);
    expect((await store.ask("GET", `/${db}/doc`)).status).to.equal(200);
  });

  it("is refused where its stub stands for nothing, its data is no base64 or its name is reserved", async () => {
    const db = await store.database();
    const cases: [object, number][] = [
      [{ a: { stub: true } }, 412],
      [{ a: { data: "%%%" } }, 400],
      [{ _a: { data: "" } }, 400],
      [{ a: {} }, 400],
    ];
    for (const [_attachments, status] of cases) {
      const refused = await store.ask("PUT", `/${db}/doc`, { body: { _attachments } });
      expect(refused.status, JSON.stringify(_attachments)).to.equal(status);
    }
    expect((await store.ask("GET", `/${db}/doc`)).status).to.equal(404);
  });

  it("comes and goes beside its document as multipart/related, as a replicator sends it", async () => {
    const db = await store.database();
    const doc = {
      _id: "doc",
      _rev: "1-0123456789abcdef0123456789abcdef",
      _attachments: { "a.bin": { follows: true, content_type: "application/x-test", length: bytes.length, revpos: 1 } },
    };
    const body = Buffer.concat([
      Buffer.from(`--cut\r\ncontent-type: application/json\r\n\r\n${JSON.stringify(doc)}\r\n--cut\r\n\r\n`),
      bytes,
      Buffer.from("\r\n--cut--"),
    ]);
    const headers = { "content-type": 'multipart/related; boundary="cut"' };
    const put = await store.ask("PUT", `/${db}/doc?new_edits=false`, { body, headers });
    expect(put.status).to.equal(201);
    const inline = await store.ask("GET", `/${db}/doc?attachments=true`);
    expect(Buffer.from(inline.body._attachments["a.bin"].data, "base64").equals(bytes)).to.equal(true);
    expect(inline.body._attachments["a.bin"].content_type).to.equal("application/x-test");
    const related = await store.ask("GET", `/${db}/doc?attachments=true`, { headers: { accept: "multipart/related" } });
    expect(related.headers.get("content-type")).to.match(/^multipart\/related/);
    expect(related.body).to.include('"follows":true');
  });

  it("is left out for a reader that has it since an earlier revision", async () => {
    const db = await store.database();
    const first = (await store.ask("PUT", `/${db}/doc/a.txt`, { body: "1", headers: { "content-type": "text/plain" } }))
      .body.rev;
    const second = await store.ask("PUT", `/${db}/doc/b.txt?rev=${first}`, {
      body: "22",
      headers: { "content-type": "text/plain" },
    });
    const since = encodeURIComponent(JSON.stringify([first]));
    const { body } = await store.ask("GET", `/${db}/doc?atts_since=${since}&attachments=true`);
    expect(body._rev).to.equal(second.body.rev);
    expect(body._attachments["a.txt"]).to.include({ stub: true }).and.not.have.property("data");
    expect(body._attachments["b.txt"].data).to.equal(Buffer.from("22").toString("base64"));
  });
});
