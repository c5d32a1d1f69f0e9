import { once } from "node:events";
import { connect } from "node:net";
import { expect } from "chai";
import { limits } from "../../config-db/embedded/limits.ts";
import { useStore } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

/**
 * What is no use to anybody must neither end the server nor get a 5xx. Mocha fails the run at an unhandled rejection or
 * an uncaught exception: the server is in this process.
 */
describe("the embedded server under garbage", () => {
  const store = useStore();

  /** Sends bytes as they are; resolves with all that comes back until the connection ends. */
  const raw = async (bytes: string): Promise<string> => {
    const { port, hostname } = new URL(store.url);
    const socket = connect(Number(port), hostname);
    let answer = "";
    socket.setEncoding("latin1").on("data", (text: string) => {
      answer += text;
    });
    socket.on("error", () => {});
    socket.write(bytes);
    await Promise.race([once(socket, "close"), eventually(() => expect(answer).to.match(/\r\n\r\n[\s\S]*\n$/))]);
    socket.destroy();
    return answer;
  };

  it("answers what is no HTTP with a 400", async () => {
    expect(await raw("\x16\x03\x01 this is TLS perhaps\r\n\r\n")).to.match(/^HTTP\/1\.1 400 /);
    expect(await raw(`GET /${"x".repeat(limits.headerBytes)} HTTP/1.1\r\nhost: x\r\n\r\n`)).to.match(
      /^HTTP\/1\.1 431 /,
    );
  });

  it("answers every method on every path below 500", async () => {
    const db = await store.database();
    const parts = [
      "",
      "_all_docs",
      "_changes",
      "_find",
      "_index",
      "_design/x",
      "_design/x/_view/y",
      "_local/x",
      "_bulk_docs",
      "_bulk_get",
      "_revs_diff",
      "_security",
      "_revs_limit",
      "_compact",
      "_purge",
      "_shards",
      "a/b/c",
      "%00",
      "__proto__",
      "constructor",
      "_design/constructor/_view/toString",
      "x?rev=__proto__",
      "x?open_revs=[5]",
      "x?open_revs={",
      "_local",
      "_design",
      "_local/_muster",
      "_all_docs?keys={}",
      "_all_docs?startkey=[[[",
      "_changes?since=-1&filter=/&doc_ids=5",
      "_changes?filter=constructor/toString",
      "x/__proto__",
      "x?atts_since=[null]",
      "%ED%A0%80",
      "_view_cleanup",
    ];
    const bodies = [
      undefined,
      "",
      "null",
      "5",
      "[]",
      "{}",
      '{"docs":[null]}',
      '{"docs":{"length":5}}',
      '"\\ud800"',
      "\ufeff{}",
    ];
    for (const part of parts) {
      for (const method of ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]) {
        // Deleting the database itself is no garbage; a feed without a timeout would wait.
        if (part === "" && method !== "POST") continue;
        for (const body of method === "GET" || method === "HEAD" ? [undefined] : bodies) {
          const { status } = await store.ask(method, `/${db}/${part}`, body === undefined ? {} : { body });
          expect(status, `${method} ${part} ${body}`).to.be.lessThan(500);
        }
      }
    }
    expect((await store.ask("GET", "/_up")).status).to.equal(200);
  }).timeout(20_000);

  it("refuses documents that PouchDB would choke on or change, and stores none of them", async () => {
    const db = await store.database();
    const docs = [
      '{"_id":"a","\\ud800":1}',
      '{"_id":"a","x":["\\udfff"]}',
      '{"_id":"\\ud83d"}',
      '{"_id":"a","__proto__":{"x":1}}',
      '{"_id":"a","n":{"__proto__":{"x":1}}}',
      '{"_id":"a","n":{"\\u005f_proto__":{"x":1}}}',
      `{"_id":"a","deep":${"[".repeat(5000)}${"]".repeat(5000)}}`,
      `{"_id":"${"x".repeat(limits.documentIdLength + 1)}"}`,
      '{"_id":"a\\u0000b"}',
      '{"_id":"a","_rev":"1-"}',
      '{"_id":"a","_rev":{"toString":1}}',
      '{"_id":"a","_attachments":{"x":{"data":"\\u0001"}}}',
      '{"_id":"a","_attachments":{"x":{"stub":true,"digest":"constructor"}}}',
      '{"_id":"a","_revisions":{"start":1,"ids":["a","b","c"]},"_rev":"1-a"}',
      '{"_id":"a","_revisions":{"start":1e9,"ids":[5]}}',
    ];
    for (const doc of docs) {
      for (const newEdits of [true, false]) {
        const body = `{"new_edits":${newEdits},"docs":[${doc}]}`;
        const bulk = await store.ask("POST", `/${db}/_bulk_docs`, { body });
        const isRefused = bulk.status >= 400 ? bulk.status < 500 : bulk.body[0]?.error !== undefined;
        // new_edits takes no history, and is told to ignore one.
        if (!(newEdits && /_revisions/.test(doc))) expect(isRefused, `${newEdits} ${doc.slice(0, 60)}`).to.equal(true);
      }
    }
    const { rows } = (await store.ask("GET", `/${db}/_all_docs`)).body;
    expect(rows.filter((row: { id: string }) => row.id !== "a")).to.deep.equal([]);
    expect((await store.ask("PUT", `/${db}/after`, { body: {} })).status).to.equal(201);
  });

  it("keeps what is only odd", async () => {
    const db = await store.database();
    const odd = {
      constructor: 1,
      toString: { hasOwnProperty: null },
      "": "empty",
      "\u2028": "line",
      length: -1,
      deep: nest(200),
    };
    await store.ask("PUT", `/${db}/odd`, { body: odd });
    const { _id, _rev, ...read } = (await store.ask("GET", `/${db}/odd`)).body;
    expect(read).to.deep.equal(odd);
  });

  it("answers a body over the limit with 413, and the connection goes on", async () => {
    const db = await store.database();
    const tooLarge = await store.ask("PUT", `/${db}/a`, { body: JSON.stringify({ x: "y".repeat(limits.bodyBytes) }) });
    expect([tooLarge.status, tooLarge.body.error]).to.deep.equal([413, "too_large"]);
    const large = await store.ask("PUT", `/${db}/a`, {
      body: JSON.stringify({ x: "y".repeat(limits.bodyBytes - 100) }),
    });
    expect(large.status).to.equal(201);
  });

  it("goes on when clients go away in the middle of their requests", async () => {
    const db = await store.database();
    const { port, hostname } = new URL(store.url);
    for (let n = 0; n < 30; n += 1) {
      const socket = connect(Number(port), hostname);
      socket.on("error", () => {});
      await once(socket, "connect");
      socket.write(
        n % 2
          ? `GET /${db}/_changes?feed=continuous HTTP/1.1\r\nhost: x\r\n\r\n`
          : `PUT /${db}/a HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{`,
      );
      if (n % 3 === 0) socket.resetAndDestroy();
      else socket.destroy();
    }
    expect((await store.ask("PUT", `/${db}/b`, { body: {} })).status).to.equal(201);
  });

  it("makes and deletes one database from many sides at once", async () => {
    const db = await store.database();
    const work = Array.from({ length: 60 }, (_, n) =>
      n % 3 === 0
        ? store.ask("PUT", `/${db}`)
        : n % 3 === 1
          ? store.ask("DELETE", `/${db}`)
          : store.ask("POST", `/${db}/_bulk_docs`, { body: { docs: [{ _id: `d${n}` }, {}] } }),
    );
    for (const { status } of await Promise.all(work)) expect([200, 201, 404, 412]).to.include(status);
    await store.ask("PUT", `/${db}`);
    expect((await store.ask("PUT", `/${db}/after`, { body: {} })).status).to.equal(201);
  });

  it("deletes a database whose housekeeping documents a client tried to spoil", async () => {
    const db = await store.database();
    for (const id of ["_pouch_dependentDbs", "compaction", "purges", "mrviews", "muster", "client:muster"]) {
      await store.ask("PUT", `/${db}/_local/${id}`, {
        body: { dependentDbs: 5, views: "x", purges: 1, revisionLimit: "x" },
      });
    }
    await store.ask("PUT", `/${db}/_design/v`, {
      body: { views: { x: { map: "function (doc) { emit(doc._id); }" } } },
    });
    expect((await store.ask("GET", `/${db}/_design/v/_view/x`)).status).to.equal(200);
    expect((await store.ask("POST", `/${db}/_compact`)).status).to.equal(202);
    expect((await store.ask("DELETE", `/${db}`)).status).to.equal(200);
  });
});

function nest(depth: number): unknown {
  let value: unknown = "bottom";
  for (let level = 0; level < depth; level += 1) value = level % 2 ? [value] : { value };
  return value;
}
