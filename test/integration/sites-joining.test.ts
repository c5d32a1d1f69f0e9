import { expect } from "chai";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

/** A new site gets everything in the order in which it was last written, never as it once stood together. */
describe("a site that joins", function () {
  this.timeout(60_000);
  let one: RunningCoordinator;
  let two: RunningCoordinator | undefined;

  before(async () => {
    one = await startCoordinator({ site: "one" });
  });
  after(async () => {
    await two?.close();
    await one?.close();
  });

  const faults = async ({ call }: RunningCoordinator) => (await call("GET", "/v1/config/faults")).body.faults;

  it("puts nothing out of force at those that are there", async () => {
    const schema = { type: "object", required: ["port"], properties: { port: { type: "integer" }, d: { default: 7 } } };
    await one.call("PUT", "/v1/config/layers/component:z-1", { settings: { port: 0 } });
    await one.call("PUT", "/v1/config/schemas/z", schema);
    await one.call("PUT", "/v1/components/z-1", { type: "z", ttlMs: 60_000 });
    // Not configured yet: it is invalid from the start, and that is held against nobody.
    await one.call("PUT", "/v1/components/z-2", { type: "z", ttlMs: 60_000 });
    for (let n = 0; n < 60; n++) await one.call("PUT", `/v1/config/layers/component:filler-${n}`, { settings: { n } });
    await one.call("PUT", "/v1/config/layers/component:z-1", { settings: { port: 1 } });
    // Last, so that it comes after the components that it says something about.
    await one.call("PUT", "/v1/config/schemas/z", { ...schema, title: "Z" });
    const abort = new AbortController();
    const stream = await fetch(`${one.url}/v1/components/z-1/config`, {
      headers: { accept: "text/event-stream" },
      signal: abort.signal,
    });
    let told = "";
    const reading = (async () => {
      for await (const bytes of stream.body as unknown as AsyncIterable<Uint8Array>) told += Buffer.from(bytes);
    })().catch(() => {});

    const [{ couchdbUrl }] = (await one.call("GET", "/v1/sites")).body.sites;
    two = await startCoordinator({ site: "two", args: ["--peers", `one=${couchdbUrl}`] });
    const joined = two;
    await eventually(
      async () => {
        const { body } = await joined.call("GET", "/v1/components/z-1/config");
        expect(body).to.deep.equal({ port: 1, d: 7 });
        const { sites } = (await joined.call("GET", "/v1/sites")).body;
        expect(sites.find(({ name }: { name: string }) => name === "one").lag.ms).to.equal(0);
      },
      { timeoutMs: 30_000 },
    );
    // What is written last at the new site is here when all before it is.
    await joined.call("PUT", "/v1/config/layers/platform", { settings: { joined: true } });
    await eventually(async () => {
      expect((await one.call("GET", "/v1/components/z-1/config")).body).to.deep.equal({ joined: true, port: 1, d: 7 });
    });
    for (const site of [one, joined]) {
      expect((await faults(site)).map(({ kind }: { kind: string }) => kind)).to.deep.equal(["invalid"]);
    }
    const refused = await one.call("PUT", "/v1/config/layers/component:z-1", { settings: { port: "bad" } });
    expect(refused.status).to.equal(422);
    expect([...told.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data as string).settings)).to.deep.equal([
      { port: 1, d: 7 },
      { joined: true, port: 1, d: 7 },
    ]);
    abort.abort();
    await reading;
  });
});
