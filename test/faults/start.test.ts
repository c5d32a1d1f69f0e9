import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { findFreePort, isPortFree } from "../../scripts/ports.ts";
import { isRunning, type ProcessIdentity } from "../../scripts/process-identity.ts";
import { eventually } from "../support/eventually.ts";
import { familyOf, type SpawnedProcess, spawnEntry } from "../support/processes.ts";

/** All that a start may take here: a loaded machine needs more than the 20 s that it takes otherwise. */
const startTimeoutMs = 90_000;
/** What dies is back by then. */
const backWithinMs = 30_000;

describe("npm start", function () {
  this.timeout(2 * startTimeoutMs);
  this.slow(60_000);

  let directory: string;
  let ports: { http: number; couchdb: number; amqp: number };
  let platform: SpawnedProcess;
  const bridge = (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${ports.http}${path}`, init);
  const put = (path: string, body: unknown) => send("PUT", path, body);
  const send = (method: string, path: string, body: unknown) =>
    bridge(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-start-"));
    ports = { http: await findFreePort(), couchdb: await findFreePort(), amqp: await findFreePort() };
  });
  after(async () => {
    await platform?.close();
    await rm(directory, { recursive: true, force: true });
  });

  async function start(): Promise<SpawnedProcess> {
    const args = ["--bare", `--data-dir=${directory}`, `--http-port=${ports.http}`];
    return await spawnEntry("scripts/start.mjs", {
      args: [...args, `--couchdb-port=${ports.couchdb}`, `--amqp-port=${ports.amqp}`],
    });
  }

  async function pidOf(name: "coordinator" | "the broker"): Promise<number> {
    const file = name === "coordinator" ? "run.json" : "broker/run.json";
    return JSON.parse(await readFile(join(directory, file), "utf8")).processes[name].pid;
  }

  async function isReady(): Promise<void> {
    const response = await bridge("/readyz");
    expect(response.status, await response.text()).to.equal(200);
  }

  async function allGone(family: ProcessIdentity[]): Promise<void> {
    await eventually(
      async () => {
        for (const member of family) expect(await isRunning(member), `process ${member.pid}`).to.equal(false);
      },
      { timeoutMs: 30_000, everyMs: 100 },
    );
    for (const port of Object.values(ports)) expect(await isPortFree(port), `port ${port}`).to.equal(true);
  }

  it("brings the platform up and says where", async () => {
    platform = await start();
    const line = await platform.line(/^Muster is up at /, startTimeoutMs);
    expect(line).to.include(`http://127.0.0.1:${ports.http}`);
    await isReady();
  });

  it("refuses a second start on the same data, and on the same ports", async () => {
    const sameData = await start();
    expect(await sameData.exited).to.equal("exit code 1");
    expect(sameData.lines.join("\n")).to.include(`in use by process ${platform.pid}`);
    const elsewhere = await mkdtemp(join(tmpdir(), "muster-start-"));
    const samePorts = await spawnEntry("scripts/start.mjs", {
      args: ["--bare", `--data-dir=${elsewhere}`, `--http-port=${ports.http}`],
    });
    expect(await samePorts.exited).to.equal("exit code 1");
    expect(samePorts.lines.join("\n")).to.include(`Port ${ports.http}`).and.include("MUSTER_HTTP_PORT");
    await rm(elsewhere, { recursive: true });
  });

  it("has broker and coordinator back within 30 s of a SIGKILL, and every command that was taken", async () => {
    expect((await put("/v1/config/layers/platform", { settings: { greeting: "hello" } })).ok).to.equal(true);
    // Never seen before: what is sent to it at once must outlive the broker too.
    expect((await put("/v1/components/probe-1", { type: "probe", ttlMs: 600_000 })).ok).to.equal(true);
    const command = { to: { component: "probe-1" }, name: "blink" };
    const sent = (await (await send("POST", "/v1/commands", command)).json()) as { id: string };
    for (const name of ["the broker", "coordinator"] as const) {
      const pid = await pidOf(name);
      process.kill(pid, "SIGKILL");
      await eventually(
        async () => {
          expect(await pidOf(name)).to.not.equal(pid);
          await isReady();
        },
        { timeoutMs: backWithinMs, everyMs: 100 },
      );
    }
    const received = await eventually(
      async () => {
        const inbox = await bridge("/v1/components/probe-1/inbox?max=10&waitMs=1000");
        expect(inbox.status).to.equal(200);
        const { messages } = (await inbox.json()) as { messages: { id: string; name: string }[] };
        expect(messages).to.not.deep.equal([]);
        return messages;
      },
      { timeoutMs: backWithinMs },
    );
    expect(received.map(({ id, name }) => ({ id, name }))).to.deep.equal([{ id: sent.id, name: "blink" }]);
  });

  it("says when the store is lost, and when it is back", async () => {
    const commands = await Promise.all(
      (await familyOf(await pidOf("coordinator"))).map(async ({ pid }) => ({
        pid,
        line: await readFile(`/proc/${pid}/cmdline`, "utf8"),
      })),
    );
    const store = commands.find(({ line }) => line.includes("config-db/embedded/main.ts"));
    process.kill(store?.pid ?? Number.NaN, "SIGKILL");
    await platform.line(/^coordinator: error: the store is lost/, backWithinMs);
    await platform.line(/^coordinator: the store is back/, backWithinMs);
    await isReady();
  });

  it("stops all of it on Ctrl-C, which npm sends twice, and leaves no process", async () => {
    const family = await familyOf(platform.pid);
    expect(family).to.have.length.greaterThan(4);
    process.kill(platform.pid, "SIGINT");
    process.kill(platform.pid, "SIGINT");
    expect(await platform.exited).to.equal("exit code 0");
    await allGone(family);
  });

  it("finds its data again", async () => {
    platform = await start();
    await platform.line(/^Muster is up at /, startTimeoutMs);
    const layer = await bridge("/v1/config/layers/platform");
    expect(await layer.json()).to.have.deep.property("settings", { greeting: "hello" });
  });

  it("leaves no process when it is itself killed", async () => {
    const family = await familyOf(platform.pid);
    await platform.kill("SIGKILL");
    await allGone(family);
  });

  it("names a setting that is wrong", async () => {
    const refused = await spawnEntry("scripts/start.mjs", { args: ["--http-port", "none"] });
    expect(await refused.exited).to.equal("exit code 1");
    expect(refused.lines.join("\n")).to.match(/--http-port: must be a port/);
  });
});
