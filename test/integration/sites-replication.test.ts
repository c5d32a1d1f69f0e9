import { createServer, request as forward, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "chai";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../../coordinator/settings.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { type JoinedSite, joinSite, layerDocument, withCredentials } from "./sites-fixture.ts";

/** A CouchDB begins its jobs after seconds, and tells of them with ten seconds of delay. */
const patient = { timeoutMs: 25_000 };

const credentials = { user: "ann", password: "s3cret-w0rd" };

describe("replication between sites", function () {
  this.timeout(60_000);
  const open: { close(): Promise<void> }[] = [];
  const opened = <Part extends { close(): Promise<void> }>(part: Part): Part => {
    open.push(part);
    return part;
  };
  afterEach(async () => {
    for (let part = open.pop(); part !== undefined; part = open.pop()) await part.close();
  });

  const listening = async (server: Server): Promise<string> => {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    opened({
      close: async () => {
        server.closeAllConnections();
        server.close();
      },
    });
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };
  const writeLayer = async (site: JoinedSite, settings: Record<string, unknown> = { a: 1 }): Promise<string> => {
    const { _id, ...content } = layerDocument(settings);
    await site.write(_id, content);
    return _id;
  };
  const arrives = (site: JoinedSite, id: string) =>
    eventually(async () => expect(await site.read(id), `${id} at ${site.name}`).to.not.equal(undefined), patient);
  const stateOf = (site: JoinedSite, peer: string) => site.sites.get(peer);
  const isUp = (site: JoinedSite, peer: string) =>
    eventually(() => expect(stateOf(site, peer)).to.deep.include({ state: "up", lag: { changes: 0, ms: 0 } }), {
      ...patient,
    });

  it("carries changes both ways when one of the two knows the other", async () => {
    const west = opened(await joinSite("west"));
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] }));
    await arrives(west, await writeLayer(east));
    await arrives(east, await writeLayer(west));
    await isUp(east, "west");
    const directions = stateOf(east, "west")?.replication?.map(({ database, direction }) => `${database} ${direction}`);
    expect(directions).to.have.members([
      "muster-config pull",
      "muster-config push",
      "muster-registry pull",
      "muster-registry push",
    ]);
  });

  it("carries changes once when both know each other: each reads, none writes", async () => {
    const west = opened(await joinSite("west"));
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] }));
    await west.sites.add({ name: "east", couchdbUrl: east.storeUrl });
    await eventually(() => {
      for (const [site, peer] of [[east, "west"] as const, [west, "east"] as const]) {
        const rows = stateOf(site, peer)?.replication ?? [];
        expect(rows.map(({ direction, state }) => `${direction} ${state}`)).to.deep.equal(["pull idle", "pull idle"]);
      }
    });
    await arrives(west, await writeLayer(east));
    await arrives(east, await writeLayer(west));
  });

  it("carries attachments, byte for byte", async () => {
    const west = opened(await joinSite("west"));
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] }));
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, n) => (n * 31) % 256));
    for (const [from, to] of [[west, east] as const, [east, west] as const]) {
      const id = await writeLayer(from);
      const { _rev: rev = "" } = (await from.read(id)) as Document;
      const database = from.store.database<Document>(databases.config);
      await database.putAttachment(id, rev, "rules.bin", { bytes, contentType: "application/octet-stream" });
      await eventually(async () => {
        const copy = await to.store.database<Document>(databases.config).getAttachment(id, "rules.bin");
        expect(copy?.equals(bytes)).to.equal(true);
      }, patient);
    }
  });

  it("leaves each site its own design documents", async () => {
    const west = opened(await joinSite("west"));
    const design = west.store.database<Document & Record<string, unknown>>(databases.config);
    await design.put({ _id: "_design/of-west", language: "javascript" });
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] }));
    await arrives(east, await writeLayer(west));
    expect(await east.read("_design/of-west")).to.equal(undefined);
  });

  it("begins and ends while the sites run, and remembers over a restart whom to replicate with", async () => {
    const west = opened(await joinSite("west"));
    const east = opened(await joinSite("east"));
    expect(await east.sites.add({ name: "west", couchdbUrl: west.storeUrl })).to.equal(true);
    expect(await east.sites.add({ name: "west", couchdbUrl: west.storeUrl })).to.equal(false);
    await arrives(west, await writeLayer(east));

    const again = opened(await joinSite("east", { storeUrl: east.storeUrl }));
    expect(again.sites.list().map(({ name, peer }) => ({ name, peer }))).to.deep.include({ name: "west", peer: true });

    await again.sites.remove("west");
    expect(again.sites.list().filter(({ peer }) => peer)).to.deep.equal([]);
    const third = opened(
      await joinSite("east", { storeUrl: east.storeUrl, peers: [{ name: "west", couchdbUrl: west.storeUrl }] }),
    );
    expect(third.sites.list().filter(({ peer }) => peer)).to.deep.equal([]);
  });

  it("tells by how much a peer that is cut off is behind, and catches up when it is back", async () => {
    const west = opened(await joinSite("west"));
    const proxy: FaultProxy = opened(await startProxy({ port: Number(new URL(west.storeUrl).port) }));
    const couchdbUrl = `http://127.0.0.1:${proxy.port}`;
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl }] }));
    await arrives(west, await writeLayer(east));
    await isUp(east, "west");
    proxy.cut();
    const written = [await writeLayer(east), await writeLayer(west)];
    await eventually(() => {
      const row = stateOf(east, "west");
      expect(row?.state).to.equal("unreachable");
      expect(row?.lastError).to.match(/cannot be reached/);
      expect(row?.lag?.ms).to.be.greaterThan(0);
    });
    proxy.heal();
    await arrives(west, written[0] as string);
    await arrives(east, written[1] as string);
    await isUp(east, "west");
  });

  it("notices a link that swallows everything and uses it again when it does not", async () => {
    const west = opened(await joinSite("west"));
    const proxy = opened(await startProxy({ port: Number(new URL(west.storeUrl).port) }));
    const couchdbUrl = `http://127.0.0.1:${proxy.port}`;
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl }] }));
    await isUp(east, "west");
    proxy.swallow("up", "down");
    await eventually(() => expect(stateOf(east, "west")?.state).to.equal("unreachable"), { timeoutMs: 15_000 });
    proxy.heal();
    await arrives(west, await writeLayer(east));
    await isUp(east, "west");
  });

  it("goes on where a link broke while documents were fetched, as before", async () => {
    const west = opened(await joinSite("west"));
    const asked: string[] = [];
    let breaks = 1;
    const server = createServer((request, response) => {
      const { pathname, search } = new URL(request.url ?? "", west.storeUrl);
      if (/_bulk_get|open_revs/.test(pathname + search)) asked.push(pathname + search);
      if (pathname.endsWith("/_bulk_get") && breaks-- > 0) return request.socket.destroy();
      const { method, headers } = request;
      const onward = forward(west.storeUrl + request.url, { method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(response);
      });
      onward.on("error", () => response.destroy());
      response.on("close", () => onward.destroy());
      request.pipe(onward);
      return undefined;
    });
    const couchdbUrl = await listening(server);
    const written = await writeLayer(west);
    const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl }] }));
    await arrives(east, written);
    await arrives(east, await writeLayer(west));
    expect(breaks, "the link was broken").to.be.lessThan(1);
    for (const path of asked) expect(path).to.match(/_bulk_get\?/);
  });

  describe("where one store is a real CouchDB", () => {
    const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;

    /** A CouchDB's databases have the names that every site has: one test at a time. */
    async function joinCouch(name: string, peers: PeerSetting[]): Promise<JoinedSite> {
      const server = new Store(couchUrl as string);
      const clear = async () => {
        for (const database of Object.values(databases)) {
          await server.request({ method: "DELETE", path: database }).catch(() => undefined);
        }
      };
      await clear();
      opened({ close: clear });
      return opened(await joinSite(name, { storeUrl: couchUrl as string, peers }));
    }

    before(function () {
      if (couchUrl === undefined) this.skip();
    });

    it("has CouchDB itself replicate with an embedded one, and takes its jobs away at the end", async () => {
      const west = opened(await joinSite("west", { credentials }));
      const east = await joinCouch("east", [{ name: "west", couchdbUrl: west.storeUrl }]);
      await arrives(west, await writeLayer(east));
      await arrives(east, await writeLayer(west));
      await isUp(east, "west");
      const jobs = () => east.store.database<Document>("_replicator").list("muster:");
      expect(await jobs()).to.have.length(4);
      expect(JSON.stringify(await jobs())).to.include("muster:east:west:muster-config:pull");
      await east.sites.close();
      expect(await jobs()).to.deep.equal([]);
    });

    it("is replicated with by an embedded one", async () => {
      const west = await joinCouch("west", []);
      const east = opened(await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] }));
      await arrives(west, await writeLayer(east));
      await arrives(east, await writeLayer(west));
      await isUp(east, "west");
    });

    it("catches up within seconds when CouchDB's own retries have given up", async () => {
      const west = opened(await joinSite("west"));
      const proxy = opened(await startProxy({ port: Number(new URL(west.storeUrl).port) }));
      const east = await joinCouch("east", [{ name: "west", couchdbUrl: `http://127.0.0.1:${proxy.port}` }]);
      await arrives(west, await writeLayer(east));
      proxy.cut();
      const written = await writeLayer(east);
      await eventually(() => expect(stateOf(east, "west")?.state).to.equal("unreachable"));
      const crashing = () => {
        const states = stateOf(east, "west")?.replication?.map(({ state }) => state);
        expect(states).to.include("error");
      };
      await eventually(crashing, { timeoutMs: 30_000 });
      proxy.heal();
      await arrives(west, written);
    });
  });

  describe("with peers that are wrong", () => {
    /** A site with a peer that works, and the wrong one. The one must work whatever the other is. */
    async function named(name: string, couchdbUrl: string): Promise<JoinedSite> {
      const west = opened(await joinSite("west"));
      const peers = [
        { name: "west", couchdbUrl: west.storeUrl },
        { name, couchdbUrl },
      ];
      const east = opened(await joinSite("east", { peers }));
      await arrives(west, await writeLayer(east));
      await isUp(east, "west");
      return east;
    }
    const tells = (site: JoinedSite, peer: string, reason: RegExp) =>
      eventually(() => {
        expect(stateOf(site, peer)?.state).to.equal("error");
        expect(stateOf(site, peer)?.lastError).to.match(reason);
      });

    it("names one that is not a CouchDB", async () => {
      const server = createServer((_request, response) => response.end("<html>hello</html>"));
      const east = await named("north", await listening(server));
      await tells(east, "north", /is not a CouchDB/);
    });

    it("names one that refuses the credentials, and tells these to nobody", async () => {
      const north = opened(await joinSite("north", { credentials }));
      const wrong = withCredentials(north.store.url, { user: "ann", password: "wr0ng-w0rd" });
      const east = await named("north", wrong);
      await tells(east, "north", /refuses the credentials/);
      const told = JSON.stringify(east.sites.list()) + (await east.metrics.metrics()) + east.log.join("");
      expect(told).to.not.include("wr0ng-w0rd");
    });

    it("tells no credentials of one that works either", async () => {
      const north = opened(await joinSite("north", { credentials }));
      const east = await named("north", north.storeUrl);
      await isUp(east, "north");
      await arrives(north, await writeLayer(east));
      const told = JSON.stringify(east.sites.list()) + (await east.metrics.metrics()) + east.log.join("");
      expect(told).to.not.include(credentials.password);
    });

    it("names one with newer records", async () => {
      const north = opened(await joinSite("north"));
      const path = "muster-registry/_local/muster-site";
      const identity = await north.store.request<object>({ path });
      await north.store.request({ method: "PUT", path, body: { ...identity, schemaVersion: 2 } });
      const east = await named("north", north.storeUrl);
      await tells(east, "north", /version 2, this site knows 1: upgrade Muster here first/);
    });

    it("names one with our own name, and one with another name than it is called here", async () => {
      const other = opened(await joinSite("east"));
      const east = await named("north", other.storeUrl);
      await tells(east, "north", /two sites are called east/);
      await east.sites.add({ name: "south", couchdbUrl: (stateOf(east, "west") as { couchdbUrl: string }).couchdbUrl });
      await tells(east, "south", /is the site west, not south/);
    });

    it("names one that is this site itself, and one on which no site has been set up", async () => {
      const bare = opened(await joinSite("bare"));
      await bare.store.request({ method: "DELETE", path: "muster-registry" });
      const east = await named("north", bare.storeUrl);
      await tells(east, "north", /without a Muster site/);
      await east.sites.add({ name: "south", couchdbUrl: east.storeUrl });
      await tells(east, "south", /this site's own store/);
    });

    it("names one that sends documents which break the rules, and takes its others", async () => {
      const north = opened(await joinSite("north"));
      const east = await named("north", north.storeUrl);
      await isUp(east, "north");
      await east.write("_design/guard", {
        language: "javascript",
        validate_doc_update: `function (doc) { if (doc.rotten) throw { forbidden: "kind junk is no record" }; }`,
      });
      await north.write("junk:1", { kind: "junk", schemaVersion: 1, rotten: true });
      await arrives(east, await writeLayer(north));
      await tells(east, "north", /north sends 1 documents of muster-config that break the rules: junk:1: kind junk is/);
      expect(await east.read("junk:1")).to.equal(undefined);
      await north.write("junk:1", { kind: "junk", schemaVersion: 1 });
      await isUp(east, "north");
    });
  });
});
