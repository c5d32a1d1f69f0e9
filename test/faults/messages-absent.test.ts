import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { eventually } from "../support/eventually.ts";
import { FaultSite } from "./messages-site.ts";

const full = process.env.MUSTER_TEST_FULL === "1";
const size = full
  ? { workers: 10, perWorker: 10, commands: 1_000, absentMs: 30_000 }
  : { workers: 5, perWorker: 4, commands: 60, absentMs: 2_000 };

describe("tracked commands to all while a part is away", function () {
  this.timeout(full ? 15 * 60_000 : 120_000);
  let site: FaultSite;
  before(async () => {
    site = await FaultSite.start();
  });
  after(() => site?.close());

  it("are all done after their return, each sender's in order", async () => {
    const workers = Array.from({ length: size.workers }, (_, n) => `worker-${n}`);
    const idsOf = (worker: string) => Array.from({ length: size.perWorker }, (_, n) => `${worker}-${n}`);
    const all = workers.flatMap(idsOf);
    // Few at a time: each start is a second of this machine.
    for (const worker of workers) await site.startWorker(worker, "fault", idsOf(worker));
    const [away = ""] = workers;
    await site.killWorker(away);
    const returned = delay(size.absentMs).then(() => site.startWorker(away, "fault", idsOf(away)));

    const ids = Array.from({ length: size.commands }, (_, n) => `broadcast-${String(n).padStart(12, "0")}`);
    const startedMs = performance.now();
    // One after another: the order that is to be kept.
    for (const [n, id] of ids.entries()) await site.send(id, { all: true }, n);
    const sentMs = performance.now() - startedMs;
    await returned;
    const done = Object.fromEntries(all.map((id) => [id, "done"]));
    for (const id of ids)
      await eventually(async () => expect(await site.states(id)).to.deep.equal(done), {
        timeoutMs: full ? 300_000 : 60_000,
        everyMs: 200,
      });
    const doneMs = performance.now() - startedMs;

    const order = new Map<string, number[]>();
    for (const { component, body } of site.runs())
      order.set(component, [...(order.get(component) ?? []), Number(body)]);
    // biome-ignore lint/suspicious/noConsole: the table is what this test is run for.
    console.table({ ...size, components: all.length, sentMs: Math.round(sentMs), doneMs: Math.round(doneMs) });
    for (const id of all) expect(order.get(id), id).to.deep.equal([...ids.keys()]);
  });
});
