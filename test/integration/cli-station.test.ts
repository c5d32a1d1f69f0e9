/** `muster station` beside a real site: online, offline, and back. */

import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { findFreePort } from "../../scripts/ports.ts";
import { type MusterRun, muster, startMuster } from "../support/cli.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

const layer = "/v1/config/layers/type:collector";
/** A station starts two processes, and the machine may be busy. */
const startMs = 30_000;

describe("a station", function () {
  this.timeout(90_000);
  let ports: { http: number; couchdb: number };
  let directory: string;
  let site: RunningCoordinator | undefined;
  const stations = new Set<MusterRun>();

  const startSite = async () => {
    const args = ["--http-port", String(ports.http), "--couchdb-port", String(ports.couchdb)];
    site = await startCoordinator({ site: "home", dataDir: join(directory, "home"), args });
    return site;
  };
  const siteUrl = () => `http://127.0.0.1:${ports.http}`;

  /** Resolves when it says that it runs. */
  async function startStation(...words: string[]) {
    const line = [
      "station",
      "--data-dir",
      join(directory, "station"),
      "--http-port",
      "0",
      "--couchdb-port",
      "0",
      "-o",
      "json",
      ...words,
    ];
    const run = startMuster(line, { env: process.env });
    stations.add(run);
    const news = () =>
      run.stdout
        .trim()
        .split("\n")
        .filter(Boolean)
        .map((text) => JSON.parse(text) as { event: string; data: Record<string, unknown> });
    await eventually(() => expect(news().at(0)?.event, run.stderr).to.equal("started"), { timeoutMs: startMs });
    return {
      url: String(news()[0]?.data.url),
      news,
      /** Resolves once it has told of an event with at least this. */
      says: (event: string, data: Record<string, unknown>) =>
        eventually(
          () => {
            const told = news().filter((one) => one.event === event);
            const fits = told.some((one) => Object.entries(data).every(([key, value]) => one.data[key] === value));
            expect(fits, `${event} ${JSON.stringify(data)} in ${run.stdout}`).to.equal(true);
          },
          { timeoutMs: startMs },
        ),
      said: () => run.stderr,
      stop: async () => {
        run.interrupt();
        stations.delete(run);
        return await run.ended;
      },
    };
  }
  const config = async (url: string, ...words: string[]) => {
    const { exitCode, stdout, stderr } = await muster(["config", ...words, "--url", url, "-o", "json"]);
    expect(exitCode, stderr).to.equal(0);
    return JSON.parse(stdout);
  };
  const settingsAt = async (url: string) => (await config(url, "get", "type:collector")).settings;

  beforeEach(async () => {
    ports = { http: await findFreePort(), couchdb: await findFreePort() };
    directory = await mkdtemp(join(tmpdir(), "muster-station-"));
  });
  afterEach(async () => {
    for (const run of stations) {
      run.interrupt();
      await run.ended;
    }
    stations.clear();
    await site?.close();
    site = undefined;
    await rm(directory, { recursive: true });
  });

  it("has what the site has, and the site gets what is written at it", async () => {
    await (await startSite()).call("PUT", layer, { settings: { samplingIntervalMs: 500 } });
    const station = await startStation("--site", siteUrl());
    await station.says("peer", { name: "home", standing: "in sync" });
    await eventually(async () => expect(await settingsAt(station.url)).to.deep.equal({ samplingIntervalMs: 500 }));
    await config(station.url, "set", "type:collector", "samplingIntervalMs=250");
    await eventually(async () => expect(await settingsAt(siteUrl())).to.deep.equal({ samplingIntervalMs: 250 }));
    expect(await readFile(join(directory, "station", "station.log"), "utf8")).to.contain("the bridge serves");
    expect(station.said()).to.equal("");
    expect(await station.stop()).to.equal(130);
  });

  it("starts and takes edits while the site is away; when it is back both sides' edits are merged and conflicts told", async () => {
    await (await startSite()).call("PUT", layer, { settings: { samplingIntervalMs: 500 } });
    const first = await startStation("--site", siteUrl(), "--name", "laptop");
    await first.says("peer", { name: "home", standing: "in sync" });
    expect(await settingsAt(first.url)).to.deep.equal({ samplingIntervalMs: 500 });
    await first.stop();

    await site?.close();
    const offline = await startStation();
    await offline.says("peer", { name: "home", standing: "away" });
    await config(offline.url, "set", "type:collector", "samplingIntervalMs=250", "here=1");
    await offline.stop();

    const back = await startSite();
    await config(siteUrl(), "set", "type:collector", "samplingIntervalMs=1000", "there=1");
    await back.call("PUT", "/v1/config/layers/platform", { settings: { region: "north" } });
    const again = await startStation();
    await again.says("layer", { layer: "platform", site: "home" });
    await again.says("conflict", { layer: "type:collector", pointer: "/samplingIntervalMs" });
    await again.says("peer", { name: "home", standing: "in sync" });
    await eventually(
      async () => {
        const [own, others] = [await settingsAt(again.url), await settingsAt(siteUrl())];
        expect(own).to.deep.equal(others).and.to.include({ here: 1, there: 1 });
      },
      { timeoutMs: startMs },
    );

    const { conflicts } = (await back.call("GET", "/v1/conflicts")).body as { conflicts: { id: string }[] };
    const resolved = await muster([
      "conflicts",
      "resolve",
      conflicts[0]?.id ?? "",
      "--choose",
      "laptop",
      "--url",
      again.url,
    ]);
    expect(resolved.exitCode, resolved.stderr).to.equal(0);
    await eventually(async () => expect(await settingsAt(siteUrl())).to.include({ samplingIntervalMs: 250 }));
    await again.says("resolved", { id: conflicts[0]?.id, layer: "type:collector", pointer: "/samplingIntervalMs" });
    expect(await again.stop()).to.equal(130);
  });

  it("is known again by its --site while that is away, and finds a site by its CouchDB too", async () => {
    await startSite();
    const url = `http://127.0.0.1:${ports.couchdb}`;
    const first = await startStation("--site", url);
    await first.says("peer", { name: "home", standing: "in sync" });
    await first.stop();
    await site?.close();
    const second = await startStation("--site", url);
    expect(second.news()[0]?.data).to.deep.include({ peers: ["home"] });
    await second.stop();
  });

  it("says why it cannot start", async () => {
    const run = (...words: string[]) =>
      muster(["station", "--data-dir", join(directory, "none"), ...words], { env: process.env });
    const never = await run("--site", siteUrl());
    expect(never.exitCode).to.equal(4);
    expect(never.stderr).to.contain(`no coordinator answers at ${siteUrl()}`);

    const nowhere = await run();
    expect(nowhere.exitCode).to.equal(2);
    expect(nowhere.stderr).to.contain("give --site");

    const other = createServer((_request, response) =>
      response.writeHead(200, { "content-type": "text/html" }).end("<html>"),
    );
    await once(other.listen(0, "127.0.0.1"), "listening");
    const { port } = other.address() as AddressInfo;
    const wrong = await run("--site", `http://127.0.0.1:${port}`);
    expect(wrong.exitCode, wrong.stderr).to.be.oneOf([2, 4]);
    expect(wrong.stderr).to.contain("is no Muster bridge and no CouchDB");

    await startSite();
    const taken = await run("--site", siteUrl(), "--http-port", String(port));
    other.close();
    expect(taken.exitCode).to.equal(1);
    expect(taken.stderr).to.contain(`port ${port} on 127.0.0.1 is taken`);
    // The same is said of a data directory that is in use.
    expect(taken.stderr).to.match(/next: .*--http-port.*--data-dir/);
  });
});
