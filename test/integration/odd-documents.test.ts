import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

/** The guards let pass what they do not know, for a newer Muster may have written it. */
describe("documents of no known kind", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let store: Embedded;
  let coordinator: RunningCoordinator | undefined;
  const start = async () => {
    coordinator = await startCoordinator({ amqpUrl: vhost.url, couchdbUrl: store.url });
    return coordinator;
  };
  before(async () => {
    store = await startEmbedded();
  });
  afterEach(() => coordinator?.close());
  after(() => store?.close());

  // Ids that begin with an underscore are the store's own.
  const inherited = Object.getOwnPropertyNames(Object.prototype).filter((name) => !name.startsWith("_"));
  const prefixes = ["", "zz", ":", ...inherited.map((name) => `${name}:`)];
  /** One that stays and one that is deleted again of each, in every database. @returns how many there are */
  const write = async (round: string) => {
    let count = 0;
    for (const name of Object.values(databases)) {
      const database = new Store(store.url).database<Document & { kind?: string }>(name);
      const docs = prefixes.map((prefix) => ({
        _id: `${prefix}x${round}`,
        kind: prefix.slice(0, -1),
        schemaVersion: 1,
      }));
      const soon = docs.map((doc) => ({ ...doc, _id: `${doc._id}-gone` }));
      const rows = await database.bulk([...docs, ...soon]);
      const gone = rows.flatMap((row) =>
        "rev" in row && row.id.endsWith("-gone") ? [{ _id: row.id, _rev: row.rev }] : [],
      );
      await database.bulk(gone.map((doc) => ({ ...doc, _deleted: true })));
      count += rows.filter((row) => "rev" in row).length;
    }
    return count;
  };
  const works = async ({ call }: RunningCoordinator, type: string) => {
    expect((await call("PUT", `/v1/components/c-${type}`, { type })).status).to.equal(201);
    // By the store alone: the coordinator that is asked would know its own write.
    const layer = {
      ...{ _id: `layer:type:${type}`, kind: "layer", schemaVersion: 1, layer: `type:${type}`, settings: { n: 1 } },
      ...{ version: 1, changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "local" },
    };
    await new Store(store.url).database<Document>(databases.config).put(layer);
    await eventually(async () => {
      expect((await call("GET", `/v1/components/c-${type}/config`)).body).to.deep.equal({ n: 1 });
      expect((await call("GET", "/readyz")).status).to.equal(200);
    });
  };

  it("do not concern a coordinator that starts", async () => {
    await startCoordinator({ couchdbUrl: store.url }).then((first) => first.close());
    expect(await write("1")).to.be.greaterThan(2 * prefixes.length);
    await works(await start(), "t1");
  });

  it("do not concern one that runs", async () => {
    const running = await start();
    expect(await write("2")).to.be.greaterThan(2 * prefixes.length);
    await works(running, "t2");
  });
});
