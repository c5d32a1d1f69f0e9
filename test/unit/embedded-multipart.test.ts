import { expect } from "chai";
import fc from "fast-check";
import { packDocument, packRevisions, unpackDocument } from "../../config-db/embedded/multipart.ts";

describe("a document as multipart/related", () => {
  it("comes back with the same attachments, whatever bytes they have", async () => {
    const attachments = fc.dictionary(
      fc.stringMatching(/^[a-z][a-z0-9 ./-]{0,20}$/),
      fc.uint8Array({ maxLength: 200 }),
    );
    await fc.assert(
      fc.asyncProperty(attachments, async (given) => {
        const entries = Object.entries(given).map(([name, bytes]) => {
          return [name, { content_type: "text/x", revpos: 1, data: Buffer.from(bytes).toString("base64") }];
        });
        const doc = { _id: "a", _rev: "1-a", _attachments: Object.fromEntries(entries) };
        const { contentType, body } = packDocument(doc);
        const { _attachments } = (await unpackDocument(contentType, body)) as typeof doc;
        expect(Object.keys(_attachments)).to.deep.equal(Object.keys(doc._attachments));
        for (const name of Object.keys(given)) expect(_attachments[name]).to.include(doc._attachments[name]);
      }),
    );
  });

  it("is refused where a part is missing, the end is missing or there is no boundary", async () => {
    const { contentType, body } = packDocument({
      _id: "a",
      _attachments: { x: { content_type: "t/t", data: "aGk=" } },
    });
    const failure = (type: string, bytes: Buffer) =>
      unpackDocument(type, bytes).then(
        () => "none",
        (error) => error.status,
      );
    expect(await failure(contentType, body.subarray(0, body.length - 2))).to.equal(400);
    expect(await failure("multipart/related", body)).to.equal(400);
    expect(await failure('multipart/related; boundary="other"', body)).to.equal(400);
    const first = Buffer.from('--c\r\n\r\n{"_attachments":{"x":{"follows":true}}}\r\n--c--');
    expect(await failure("multipart/related; boundary=c", first)).to.equal(400);
  });
});

describe("revisions as multipart/mixed", () => {
  it("says of a missing one that it is an error", () => {
    const { contentType, body } = packRevisions([{ ok: { _id: "a", _rev: "1-a" } }, { missing: "2-b" }]);
    expect(contentType).to.match(/^multipart\/mixed; boundary="\w+"$/);
    expect(body.toString()).to.include('content-type: application/json; error="true"\r\n\r\n{"missing":"2-b"}');
  });
});
