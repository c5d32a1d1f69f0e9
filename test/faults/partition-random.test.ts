import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import fc from "fast-check";
import { lostEdits, Partition, type PartitionSite, type TakenEdit, untilEqual } from "./partition-harness.ts";

/** CI runs a few schedules; MUSTER_TEST_FULL=1 runs the judged number. */
const schedules = process.env.MUSTER_TEST_FULL === "1" ? 20 : 3;
const names = ["east", "north", "west"];
/** Longer than the watch over a peer takes to notice, and than a cut that nothing noticed lasts. */
const healedMs = 30_000;

type Step =
  | { do: "edit"; at: string; layer: number; field: number }
  | { do: "delete"; at: string; layer: number }
  | { do: "cut off"; at: string }
  | { do: "swallow"; from: string; to: string }
  | { do: "slow"; at: string; ms: number }
  | { do: "flap"; at: string }
  | { do: "heal" }
  | { do: "wait"; ms: number };

const site = fc.constantFrom(...names);
const layer = fc.nat({ max: 2 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 14,
    arbitrary: fc.record({ do: fc.constant("edit" as const), at: site, layer, field: fc.nat({ max: 3 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("delete" as const), at: site, layer }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("cut off" as const), at: site }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("swallow" as const), from: site, to: site }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("slow" as const), at: site, ms: fc.integer({ min: 10, max: 300 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("flap" as const), at: site }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("heal" as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 50, max: 800 }) }) },
);

describe("sites with a network that fails at random", function () {
  this.timeout(120_000);
  let partition: Partition;
  let count = 0;

  before(async () => {
    partition = await Partition.start({ names, couchAt: "north" });
  });
  afterEach(function () {
    if (this.currentTest?.state === "failed") process.stdout.write(`${partition.lastWords()}\n`);
  });
  after(async () => await partition?.close());

  const edited = new Set<string>();

  async function play(steps: Step[], prefix: string): Promise<{ edits: TakenEdit[]; layers: string[] }> {
    const edits: TakenEdit[] = [];
    const layers = [0, 1, 2].map((n) => `type:${prefix}-${n}`);
    for (const taken of steps) {
      switch (taken.do) {
        case "edit": {
          const name = layers[taken.layer] as string;
          const value = `${prefix}-${taken.at}-${count++}`;
          const at: PartitionSite = partition.site(taken.at);
          const body = { settings: { [`f${taken.field}`]: value } };
          const answer = await at.call("PATCH", `/v1/config/layers/${name}`, body);
          expect(answer.status, JSON.stringify(answer.body)).to.be.oneOf([200, 201]);
          edits.push({ site: taken.at, layer: name, field: `f${taken.field}`, value });
          edited.add(name);
          break;
        }
        case "delete": {
          const path = `/v1/config/layers/${layers[taken.layer]}`;
          expect((await partition.site(taken.at).call("DELETE", path)).status).to.be.oneOf([204, 404]);
          break;
        }
        case "cut off":
          partition.cutOff(taken.at);
          break;
        case "swallow":
          for (const proxy of partition.linksFrom(taken.from, taken.to)) proxy.swallow("down");
          break;
        case "slow":
          for (const proxy of partition.links(taken.at)) proxy.slow(taken.ms);
          break;
        case "flap":
          for (const proxy of partition.links(taken.at)) proxy.reset();
          break;
        case "heal":
          partition.heal();
          break;
        case "wait":
          await delay(taken.ms);
      }
    }
    return { edits, layers: layers.filter((name) => edited.has(name)) };
  }

  const seed = Number(process.env.MUSTER_TEST_SEED ?? Date.now() % 1_000_000);
  const samples = fc.sample(fc.array(step, { minLength: 25, maxLength: 50 }), { numRuns: schedules, seed });
  for (const [index, steps] of samples.entries()) {
    it(`end equal with every edit in the result, in history or listed: schedule ${index} of seed ${seed}`, async () => {
      const { edits, layers } = await play(steps, `s${seed}-${index}`);
      partition.heal();
      const equalMs = await untilEqual(partition, layers, healedMs);
      process.stdout.write(
        `      ${edits.length} edits, ${steps.length} steps, equal after ${Math.round(equalMs)} ms\n`,
      );
      for (const { name } of partition.sites) {
        expect(await lostEdits(partition.site(name), edits), name).to.deep.equal([]);
      }
    });
  }
});
