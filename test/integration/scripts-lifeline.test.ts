import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { claimDirectory } from "../../scripts/claim.ts";
import { startGroup } from "../../scripts/process-group.ts";
import { identifyProcess, isRunning } from "../../scripts/process-identity.ts";
import { SetupError } from "../../scripts/setup-error.ts";
import { eventually } from "../support/eventually.ts";
import { type SpawnedProcess, spawnEntry } from "../support/processes.ts";

const waits = ["-e", "console.log('here'); setInterval(() => undefined, 1000)"];
const isDeaf = ["-e", "process.on('SIGTERM', () => {}); console.log('here'); setInterval(() => undefined, 1000)"];

describe("a process group", () => {
  it("ends by SIGTERM when it obeys", async () => {
    const group = await startGroup(process.execPath, waits, { stdio: "ignore" });
    await group.end(5_000);
    expect(await group.exited).to.equal("SIGTERM");
  });

  it("ends by SIGKILL when it does not", async () => {
    const group = await startGroup(process.execPath, isDeaf, { stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => group.child.stdout?.once("data", resolve));
    await group.end(100);
    expect(await group.exited).to.equal("SIGKILL");
  });

  it("takes its children with it, also those that a killed leader leaves behind", async () => {
    const parent =
      "const c = require('child_process').spawn('sleep', ['60']); console.log(c.pid); setInterval(() => {}, 1000)";
    const group = await startGroup(process.execPath, ["-e", parent], { stdio: ["ignore", "pipe", "ignore"] });
    const pid = Number(await new Promise((resolve) => group.child.stdout?.once("data", resolve)));
    const child = await identifyProcess(pid);
    expect(child).to.not.equal(undefined);
    process.kill(group.identity.pid, "SIGKILL");
    await group.exited;
    await group.end(5_000);
    expect(await isRunning(child)).to.equal(false);
  });

  it("rejects a program that is not there", async () => {
    const error = await startGroup("/no/such/program", []).catch((error: NodeJS.ErrnoException) => error.code);
    expect(error).to.equal("ENOENT");
  });
});

describe("a process that is killed with groups tied to it", function () {
  this.timeout(15_000);
  let owner: SpawnedProcess;
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-claim-"));
    owner = await spawnEntry("test/support/owner.ts", { args: [directory] });
  });
  after(async () => {
    await owner.close();
    await rm(directory, { recursive: true });
  });

  it("has its directory for itself while it lives", async () => {
    await owner.line(/^tied \d+$/);
    const error = await claimDirectory(directory, { what: "It", stopTimeoutMs: 1_000 }).catch(
      (error: unknown) => error,
    );
    expect(error).to.be.instanceOf(SetupError);
    expect((error as Error).message).to.include(`process ${owner.pid}`);
  });

  it("takes them with it", async () => {
    const pid = Number((await owner.line(/^tied \d+$/)).split(" ")[1]);
    const tied = await identifyProcess(pid);
    expect(tied).to.not.equal(undefined);
    await owner.kill("SIGKILL");
    await eventually(async () => expect(await isRunning(tied)).to.equal(false));
  });

  it("leaves the directory to the next", async () => {
    const claim = await claimDirectory(directory, { what: "It", stopTimeoutMs: 1_000 });
    await claim.release();
  });
});
