import { request } from "node:http";
import { expect } from "chai";
import { describeStores, type TestStore, useStore } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

interface Row {
  seq: string;
  id: string;
  changes: { rev: string }[];
  deleted?: boolean;
  doc?: Record<string, unknown>;
}

/** A feed that stays open: its lines as they come. */
interface Feed {
  rows: Row[];
  newlines: number;
  lastSeq: string | undefined;
  isOver: boolean;
  close(): void;
}

function follow(store: TestStore, path: string): Feed {
  const base = new URL(store.url);
  const feed: Feed = { rows: [], newlines: 0, lastSeq: undefined, isOver: false, close: () => asked.destroy() };
  let rest = "";
  const auth = base.username === "" ? {} : { auth: `${base.username}:${base.password}` };
  const asked = request({ host: base.hostname, port: base.port, path, ...auth }, (response) => {
    response.setEncoding("utf8");
    response.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") feed.newlines += 1;
        else if (line.includes('"last_seq"')) feed.lastSeq = JSON.parse(line).last_seq;
        else feed.rows.push(JSON.parse(line));
      }
    });
    response.on("close", () => {
      feed.isOver = true;
    });
    response.on("error", () => {});
  });
  asked.on("error", () => {});
  asked.end();
  return feed;
}

describeStores("a changes feed", (store) => {
  const put = async (db: string, id: string, doc: object = {}) =>
    (await store.ask("PUT", `/${db}/${id}`, { body: doc })).body.rev as string;
  const changes = async (db: string, query = "", body?: object) =>
    (await store.ask(body ? "POST" : "GET", `/${db}/_changes?${query}`, body && { body })).body as {
      results: Row[];
      last_seq: string;
      pending: number;
    };
  const ids = (rows: Row[]) => rows.map((row) => row.id).sort();

  it("shows each document once, at its last change, with what was deleted", async () => {
    const db = await store.database();
    const a = await put(db, "a");
    const b = await put(db, "b");
    const newest = await put(db, "a", { _rev: a, n: 2 });
    await store.ask("DELETE", `/${db}/b?rev=${b}`);
    const { results, pending } = await changes(db, "include_docs=true");
    expect(ids(results)).to.deep.equal(["a", "b"]);
    const rowOf = (id: string) => results.find((row) => row.id === id) as Row;
    expect(rowOf("a").changes).to.deep.equal([{ rev: newest }]);
    expect(rowOf("a").doc).to.deep.equal({ _id: "a", _rev: newest, n: 2 });
    expect(rowOf("b").deleted).to.equal(true);
    expect(pending).to.equal(0);
  });

  it("goes on from where it was left, page by page", async () => {
    const db = await store.database();
    for (const id of ["a", "b", "c"]) await put(db, id);
    const seen: Row[] = [];
    let since = "0";
    for (let pages = 0; pages < 3; pages += 1) {
      const page = await changes(db, `since=${encodeURIComponent(since)}&limit=1`);
      seen.push(...page.results);
      expect(page.pending > 0).to.equal(pages < 2);
      since = page.last_seq;
    }
    expect(ids(seen)).to.deep.equal(["a", "b", "c"]);
    expect((await changes(db, `since=${encodeURIComponent(since)}`)).results).to.deep.equal([]);
    expect((await changes(db, "since=now")).results).to.deep.equal([]);
    expect((await changes(db, "limit=0")).results).to.deep.equal([]);
    expect((await changes(db, "descending=true")).results).to.have.lengthOf(3);
  });

  it("names all leaves with style=all_docs, the winner first", async () => {
    const db = await store.database();
    const revs = ["b", "a"].map((digit) => `1-${digit.repeat(32)}`);
    await store.ask("POST", `/${db}/_bulk_docs`, {
      body: { new_edits: false, docs: revs.map((_rev) => ({ _id: "a", _rev })) },
    });
    const all = await changes(db, "style=all_docs&include_docs=true&conflicts=true");
    expect(all.results[0]?.changes.map(({ rev }) => rev)).to.deep.equal(revs);
    expect(all.results[0]?.doc?._conflicts).to.deep.equal([revs[1]]);
    expect((await changes(db)).results[0]?.changes).to.deep.equal([{ rev: revs[0] }]);
  });

  it("shows only what its filter lets through, and goes past the rest", async () => {
    const db = await store.database();
    for (const kind of ["x", "y"]) await put(db, `a-${kind}`, { kind });
    await put(db, "_design/d", {
      filters: { kind: "function (doc, req) { return doc.kind === req.query.kind; }" },
      views: { x: { map: "function (doc) { if (doc.kind === 'x') emit(null); }" } },
    });
    const all = (await changes(db)).last_seq;
    const cases: [string, object | undefined, string[]][] = [
      ["filter=_selector", { selector: { kind: "x" } }, ["a-x"]],
      ["filter=_selector", { selector: { kind: { $in: ["y"] } } }, ["a-y"]],
      ["filter=_doc_ids", { doc_ids: ["a-y", "none"] }, ["a-y"]],
      [`filter=_doc_ids&doc_ids=${encodeURIComponent('["a-x"]')}`, undefined, ["a-x"]],
      ["filter=_design", undefined, ["_design/d"]],
      ["filter=d/kind&kind=y", undefined, ["a-y"]],
      ["filter=_view&view=d/x", undefined, ["a-x"]],
    ];
    for (const [query, body, expected] of cases) {
      const page = await changes(db, query, body);
      expect(ids(page.results), query).to.deep.equal(expected);
      expect(Number.parseInt(page.last_seq, 10)).to.equal(Number.parseInt(all, 10));
    }
  });

  it("refuses a filter that does not exist, and parameters that make no sense", async () => {
    const db = await store.database();
    const cases: [string, number][] = [
      ["filter=none/x", 404],
      ["filter=x", 400],
      ["feed=strange", 400],
      ["since=strange", 400],
      ["heartbeat=strange", 400],
      // CouchDB answers 500 here.
      ...(store.isCouchDb ? [] : ([["limit=strange", 400]] as [string, number][])),
    ];
    for (const [query, status] of cases) {
      expect((await store.ask("GET", `/${db}/_changes?${query}`)).status, query).to.equal(status);
    }
    const selector = await store.ask("POST", `/${db}/_changes?filter=_selector`, {
      body: { selector: { a: { $none: 1 } } },
    });
    expect(selector.status).to.equal(400);
  });

  it("answers a long poll with the first change that passes the filter", async () => {
    const db = await store.database();
    await put(db, "before", { wanted: true });
    const since = encodeURIComponent((await changes(db)).last_seq);
    const poll = changes(db, `feed=longpoll&since=${since}&timeout=10000&filter=_selector&include_docs=true`, {
      selector: { wanted: true },
    });
    await put(db, "unwanted");
    await put(db, "wanted", { wanted: true });
    expect((await poll).results.map((row) => row.doc?._id)).to.deep.equal(["wanted"]);
  });

  it("answers a long poll at once with what there is, and with nothing at its timeout", async () => {
    const db = await store.database();
    await put(db, "a");
    expect(ids((await changes(db, "feed=longpoll&since=0&timeout=10000")).results)).to.deep.equal(["a"]);
    const empty = await changes(db, "feed=longpoll&since=now&timeout=50");
    expect(empty.results).to.deep.equal([]);
    expect(Number.parseInt(empty.last_seq, 10)).to.equal(1);
  });

  it("streams continuously: what there is, then what comes, line by line", async () => {
    const db = await store.database();
    await put(db, "before");
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=0&include_docs=true&heartbeat=10000`);
    await eventually(() => expect(ids(feed.rows)).to.deep.equal(["before"]));
    for (let n = 0; n < 20; n += 1) await put(db, `d${n}`, { n });
    await eventually(() => expect(feed.rows).to.have.lengthOf(21));
    expect(feed.rows.slice(1).map((row) => row.doc?.n)).to.deep.equal(Array.from({ length: 20 }, (_, n) => n));
    feed.close();
  });

  it("keeps a quiet feed alive with newlines where a heartbeat is asked for", async () => {
    const db = await store.database();
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=now&heartbeat=100`);
    await eventually(() => expect(feed.newlines).to.be.greaterThan(2));
    expect([feed.rows, feed.isOver]).to.deep.equal([[], false]);
    feed.close();
  });

  it("ends a quiet feed at its timeout with where it was", async () => {
    const db = await store.database();
    await put(db, "a");
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=now&timeout=100`);
    await eventually(() => expect(feed.isOver).to.equal(true));
    expect(Number.parseInt(feed.lastSeq ?? "", 10)).to.equal(1);
  });

  it("ends at its limit", async () => {
    const db = await store.database();
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=0&limit=2&timeout=10000`);
    for (const id of ["a", "b", "c"]) await put(db, id);
    await eventually(() => expect(feed.isOver).to.equal(true));
    expect(feed.rows).to.have.lengthOf(2);
  });

  it("loses nothing and repeats nothing while many write", async () => {
    const db = await store.database();
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=0&heartbeat=10000`);
    const written = Array.from({ length: 8 }, async (_, writer) => {
      for (let n = 0; n < 15; n += 1) await put(db, `w${writer}-${n}`);
    });
    await Promise.all(written);
    await eventually(() => expect(new Set(feed.rows.map((row) => row.id)).size).to.equal(120));
    expect(feed.rows).to.have.lengthOf(120);
    feed.close();
  });
});

describe("a changes feed of the embedded store", () => {
  const store = useStore();

  it("starts over for a client that knows another database of the same name", async () => {
    const db = await store.database();
    await store.ask("PUT", `/${db}/a`, { body: {} });
    const { last_seq: since } = (await store.ask("GET", `/${db}/_changes`)).body;
    await store.ask("DELETE", `/${db}`);
    await store.ask("PUT", `/${db}`);
    await store.ask("PUT", `/${db}/b`, { body: {} });
    const again = await store.ask("GET", `/${db}/_changes?since=${since}`);
    expect(again.body.results.map((row: Row) => row.id)).to.deep.equal(["b"]);
  });

  it("serves hundreds that wait, from one look at the database", async () => {
    const db = await store.database();
    const feeds = Array.from({ length: 300 }, () =>
      follow(store, `/${db}/_changes?feed=continuous&since=0&heartbeat=60000`),
    );
    await store.ask("PUT", `/${db}/a`, { body: {} });
    await eventually(() => expect(feeds.every((feed) => feed.rows.length === 1)).to.equal(true));
    await store.ask("PUT", `/${db}/b`, { body: {} });
    await eventually(() => expect(feeds.every((feed) => feed.rows.length === 2)).to.equal(true));
    for (const feed of feeds) feed.close();
  });

  it("ends when its database is deleted", async () => {
    const db = await store.database();
    const feed = follow(store, `/${db}/_changes?feed=continuous&since=0&heartbeat=60000`);
    await store.ask("PUT", `/${db}/a`, { body: {} });
    await eventually(() => expect(feed.rows).to.have.lengthOf(1));
    await store.ask("DELETE", `/${db}`);
    await eventually(() => expect(feed.isOver).to.equal(true));
  });

  it("waits for a reader that does not read, and serves the others meanwhile", async () => {
    const db = await store.database();
    const base = new URL(store.url);
    const path = `/${db}/_changes?feed=continuous&since=0&include_docs=true&heartbeat=60000`;
    const slow = request({ host: base.hostname, port: base.port, path });
    const answered = new Promise<import("node:http").IncomingMessage>((resolve) => slow.once("response", resolve));
    slow.on("error", () => {});
    slow.end();
    await store.ask("PUT", `/${db}/first`, { body: {} });
    const response = await answered;
    const filler = "x".repeat(500_000);
    for (let n = 0; n < 30; n += 1) await store.ask("PUT", `/${db}/d${n}`, { body: { filler } });
    const quick = follow(store, `/${db}/_changes?feed=continuous&since=0&heartbeat=60000`);
    await eventually(() => expect(quick.rows).to.have.lengthOf(31));
    quick.close();
    let text = "";
    response.setEncoding("utf8");
    response.on("data", (chunk: string) => {
      text += chunk;
    });
    response.on("error", () => {});
    await eventually(() => expect(text.match(/"seq":/g)).to.have.lengthOf(31));
    slow.destroy();
  });
});
