/** The demo as `npm start` runs it, against a coordinator and broker of the test's own. */
import { readdir, readFile } from "node:fs/promises";
import { expect } from "chai";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type SpawnedProcess, spawnEntry } from "../support/processes.ts";

describe("the demo", function () {
  this.timeout(120_000);
  const vhost = useVhost();
  let coordinator: RunningCoordinator;
  let demo: SpawnedProcess;

  before(async () => {
    const args = ["--amqp-management-url", vhost.managementUrl];
    coordinator = await startCoordinator({ amqpUrl: vhost.url, args });
    const env = { MUSTER_URL: coordinator.url, MUSTER_DATA_DIR: coordinator.dataDir };
    demo = await spawnEntry("scripts/demo/main.ts", { env });
  });
  after(async () => {
    await demo?.close();
    await coordinator?.close();
  });

  const up = async (): Promise<Record<string, number>> => {
    const { body } = await coordinator.call("GET", "/v1/components?tag=demo");
    const components = body.components as { id: string; incarnation: number }[];
    return Object.fromEntries(components.map(({ id, incarnation }) => [id, incarnation]));
  };

  it("walks its story, one line a step, each with its time", async () => {
    await demo.line(/The demo goes on/, 90_000);
    const steps = demo.lines.filter((line) => /^ ?\d+\. /.test(line));
    expect(steps.map((line) => line.slice(4, 30).trim())).to.deep.equal([
      "register",
      "read configuration",
      "change their type's layer",
      "command to one",
      "broadcast to all",
      "request and reply",
      "kill -9 collector-2",
      "command to the dead one",
      "start it again",
    ]);
    for (const step of steps) expect(step).to.match(/\d ms/);
    expect(demo.lines.filter((line) => !steps.includes(line))).to.have.lengthOf(1);
    const [, killed] = /left discovery ([\d,]+) ms later/.exec(steps[6] ?? "") ?? [];
    // It had renewed at most a third of its TTL before, and a busy machine judges a little late.
    expect(Number(killed?.replace(",", ""))).to.be.within(3_000, 7_000);
  });

  it("keeps its components running, and starts one again that dies", async () => {
    const before = await up();
    expect(Object.keys(before)).to.have.members(["collector-1", "collector-2", "paas-app"]);
    const victims = await processesOf(demo.pid, /collector\.ts|paas-app\.mjs/);
    expect(victims).to.have.lengthOf(3);
    for (const pid of victims) process.kill(pid, "SIGKILL");
    await eventually(
      async () => {
        const now = await up();
        for (const [id, incarnation] of Object.entries(before)) expect(now[id], id).to.be.above(incarnation);
      },
      { timeoutMs: 30_000 },
    );
  });

  it("ends with its components, which leave", async () => {
    const components = await processesOf(demo.pid, /collector\.ts|paas-app\.mjs/);
    await demo.close();
    expect(await demo.exited).to.equal("exit code 0");
    expect(await up()).to.deep.equal({});
    for (const pid of components) expect(() => process.kill(pid, 0)).to.throw("ESRCH");
  });
});

/** The children of `parent` whose command line fits. */
async function processesOf(parent: number, fits: RegExp): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, "utf8").catch(() => "");
    const command = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    const [, parentOfIt] = /\) \S (\d+) /.exec(stat) ?? [];
    if (Number(parentOfIt) === parent && fits.test(command)) found.push(Number(name));
  }
  return found;
}
