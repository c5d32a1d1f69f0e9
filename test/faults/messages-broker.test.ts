import { expect } from "chai";
import { eventually } from "../support/eventually.ts";
import { FaultSite, pooled } from "./messages-site.ts";

/** Each kill takes the broker and one process of components. `MUSTER_TEST_FULL=1` takes many minutes. */
const full = process.env.MUSTER_TEST_FULL === "1";
const size = full
  ? { commands: 20_000, workers: 5, perWorker: 4, kills: 10 }
  : { commands: 1_000, workers: 2, perWorker: 2, kills: 1 };
const minutes = 60_000;

describe("commands while the broker and components are killed", function () {
  this.timeout((full ? 30 : 5) * minutes);
  let site: FaultSite;
  before(async () => {
    site = await FaultSite.start();
  });
  after(() => site?.close());

  it("are each done once a process, none lost", async () => {
    const workers = Array.from({ length: size.workers }, (_, n) => `worker-${n}`);
    const idsOf = (worker: string) => Array.from({ length: size.perWorker }, (_, n) => `${worker}-${n}`);
    await Promise.all(workers.map((worker) => site.startWorker(worker, "fault", idsOf(worker))));
    const targets = workers.flatMap(idsOf);
    const commands = Array.from({ length: size.commands }, (_, n) => ({
      id: `command-${String(n).padStart(12, "0")}`,
      component: targets[n % targets.length] ?? "",
      n,
    }));

    let sent = 0;
    const sending = pooled(commands, 16, async ({ id, component, n }) => {
      await site.send(id, { component }, n);
      sent += 1;
    });
    const killing = (async () => {
      for (let kill = 1; kill <= size.kills; kill += 1) {
        const share = (kill / (size.kills + 1)) * size.commands;
        await eventually(() => expect(sent).to.be.at.least(share), { timeoutMs: 10 * minutes, everyMs: 50 });
        const worker = workers[kill % workers.length] ?? "";
        const ids = await site.killWorker(worker);
        await site.killBroker();
        await site.startWorker(worker, "fault", ids);
      }
    })();
    await Promise.all([sending, killing]);

    const final: Record<string, number> = {};
    await pooled(commands, 16, async ({ id, component }) => {
      await eventually(async () => expect(await site.states(id)).to.deep.equal({ [component]: "done" }), {
        timeoutMs: 3 * minutes,
        everyMs: 500,
      });
      final.done = (final.done ?? 0) + 1;
    });

    const runs = site.runs();
    const byProcess = new Map<string, number>();
    for (const { process, command } of runs) {
      const key = `${process} ${command}`;
      byProcess.set(key, (byProcess.get(key) ?? 0) + 1);
    }
    const twice = [...byProcess].filter(([, times]) => times > 1);
    const handled = new Set(runs.map(({ command }) => command));
    // biome-ignore lint/suspicious/noConsole: the table is what this test is run for.
    console.table({
      ...size,
      sent,
      ...final,
      handled: handled.size,
      "run again by the process that followed a killed one": byProcess.size - handled.size,
      "runs twice in one process": twice.length,
    });
    expect(handled.size).to.equal(size.commands);
    expect(twice, "handlers that ran twice in one process").to.deep.equal([]);
  });
});
