import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect } from "chai";
import { ask } from "../support/embedded.ts";
import { eventually } from "../support/eventually.ts";

const entry = resolve(import.meta.dirname, "../../config-db/embedded/main.ts");

describe("the embedded database as a process", function () {
  this.timeout(60_000);
  const children: ChildProcess[] = [];
  let directory = "";

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-test-embedded-"));
  });
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL");
  });
  after(async () => await rm(directory, { recursive: true, force: true }));

  const launch = (...args: string[]): ChildProcess => {
    const child = fork(entry, args, { execArgv: ["--import", "tsx"], stdio: ["ignore", "ignore", "ignore", "ipc"] });
    children.push(child);
    return child;
  };
  const told = async (child: ChildProcess) => (await once(child, "message"))[0] as { url?: string; error?: string };
  const start = async (...args: string[]) => {
    const child = launch(...args);
    const { url, error } = await told(child);
    if (url === undefined) throw new Error(error);
    return { child, url };
  };
  const exitOf = async (child: ChildProcess) => (await once(child, "exit")) as [number | null, string | null];

  it("says where it is, keeps what it was given over a restart, and ends in order on SIGTERM", async () => {
    const data = join(directory, "restart");
    const first = await start("--port", "0", "--directory", data);
    await ask(first.url, "PUT", "/db");
    await ask(first.url, "PUT", "/db/_revs_limit", { body: "7" });
    const { body: made } = await ask(first.url, "PUT", "/db/a", { body: { n: 1 } });
    await ask(first.url, "PUT", "/db/_design/v", {
      body: { views: { x: { map: "function (doc) { emit(doc._id); }" } } },
    });
    expect((await ask(first.url, "GET", "/db/_design/v/_view/x")).body.rows).to.have.lengthOf(1);
    const { last_seq: since } = (await ask(first.url, "GET", "/db/_changes")).body;
    // Its first bytes: the process has the request, and is not told to end before.
    const feed = await fetch(`${first.url}/db/_changes?feed=continuous&since=now&heartbeat=100`);
    const exited = exitOf(first.child);
    first.child.kill("SIGTERM");
    expect(await exited).to.deep.equal([0, null]);
    await feed.text();
    const second = await start("--port", "0", "--directory", data);
    expect((await ask(second.url, "GET", "/db/a")).body).to.deep.equal({ _id: "a", _rev: made.rev, n: 1 });
    expect((await ask(second.url, "GET", "/db/_revs_limit")).body).to.equal(7);
    expect((await ask(second.url, "GET", "/db/_design/v/_view/x")).body.rows).to.have.lengthOf(1);
    expect((await ask(second.url, "GET", `/db/_changes?since=${since}`)).body.results).to.deep.equal([]);
  });

  it("ends when its parent does", async () => {
    const { child } = await start("--port", "0");
    const exited = exitOf(child);
    child.disconnect();
    expect(await exited).to.deep.equal([0, null]);
  });

  it("stays at Ctrl-C for as long as its parent needs it", async () => {
    const { child, url } = await start("--port", "0");
    child.kill("SIGINT");
    expect((await ask(url, "GET", "/_up")).status).to.equal(200);
    expect(child.exitCode).to.equal(null);
  });

  it("waits for the directory of a process that is ending", async () => {
    const data = join(directory, "handover");
    const first = await start("--port", "0", "--directory", data);
    const next = launch("--port", "0", "--directory", data);
    const ready = told(next);
    // The second one is past its own start and at the lock when the first lets go.
    await ask(first.url, "PUT", "/db");
    const exited = exitOf(first.child);
    first.child.kill("SIGKILL");
    await exited;
    const { url = "" } = await ready;
    expect((await ask(url, "GET", "/_all_dbs")).body).to.deep.equal(["db"]);
  });

  it("gives up on a directory that another process keeps, and on a port that is taken, and says so", async () => {
    const data = join(directory, "kept");
    const first = await start("--port", "0", "--directory", data);
    const { port } = new URL(first.url);
    const onPort = launch("--port", port);
    const onDirectory = launch("--port", "0", "--directory", data);
    const [portExit, directoryExit] = [exitOf(onPort), exitOf(onDirectory)];
    const taken = await told(onPort);
    expect(taken.error).to.include(port).and.include("MUSTER_COUCHDB_PORT");
    expect((await portExit)[0]).to.equal(1);
    const locked = await told(onDirectory);
    expect(locked.error)
      .to.include("kept")
      .and.match(/another process has used the directory/);
    expect((await directoryExit)[0]).to.equal(1);
    expect((await ask(first.url, "GET", "/_up")).status).to.equal(200);
  });

  it("refuses settings that it does not know or cannot use", async () => {
    for (const [args, said] of [
      [["--port", "70000"], /70000/],
      [["--prot", "1"], /--prot/],
    ] as const) {
      const child = launch(...args);
      const exited = exitOf(child);
      expect((await told(child)).error).to.match(said);
      expect((await exited)[0]).to.equal(1);
    }
  });

  it("comes back with every acknowledged write after each of twenty SIGKILLs in the middle of writes", async () => {
    const data = join(directory, "killed");
    const acknowledged = new Map<string, string>();
    for (let life = 0; life <= 20; life += 1) {
      const { child, url } = await start("--port", "0", "--directory", data);
      if (life === 0) await ask(url, "PUT", "/db");
      const rows = (await ask(url, "GET", "/db/_all_docs?include_docs=true")).body.rows as {
        id: string;
        value: { rev: string };
      }[];
      const stored = new Map(rows.map((row) => [row.id, row.value.rev]));
      for (const [id, rev] of acknowledged) expect(stored.get(id), `${id} in life ${life}`).to.equal(rev);
      if (life === 20) break;
      const written = acknowledged.size;
      let isAlive = true;
      // In bulk and one by one; each new document under a new id, so that "acknowledged" is "must be there".
      const writers = Array.from({ length: 6 }, async (_, writer) => {
        for (let n = 0; isAlive; n += 1) {
          const id = `l${life}-w${writer}-${n}`;
          try {
            if (writer % 2 === 0) acknowledged.set(id, (await ask(url, "PUT", `/db/${id}`, { body: { n } })).body.rev);
            else {
              const docs = Array.from({ length: 5 }, (_each, at) => ({ _id: `${id}-${at}` }));
              const { body } = await ask(url, "POST", "/db/_bulk_docs", { body: { docs } });
              for (const row of body) acknowledged.set(row.id, row.rev);
            }
          } catch {
            isAlive = false;
          }
        }
      });
      await eventually(() => expect(acknowledged.size).to.be.greaterThan(written + 50 + life * 3), { everyMs: 1 });
      const exited = exitOf(child);
      child.kill("SIGKILL");
      await exited;
      await Promise.all(writers);
    }
    expect(acknowledged.size).to.be.greaterThan(1_000);
  }).timeout(180_000);
});
