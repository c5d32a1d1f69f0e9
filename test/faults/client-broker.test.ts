import { expect } from "chai";
import { type Component, connect, isMusterError } from "../../clients/typescript/src/index.ts";
import { eventually } from "../support/eventually.ts";
import { FaultSite, pooled } from "./messages-site.ts";

const full = process.env.MUSTER_TEST_FULL === "1";
const size = full ? { commands: 20_000, kills: 5 } : { commands: 3_000, kills: 1 };

describe("a client in full load while the broker is killed", function () {
  this.timeout(full ? 20 * 60_000 : 180_000);
  let site: FaultSite;
  const open: Component[] = [];
  before(async () => {
    site = await FaultSite.start();
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((component) => component.close()));
  });
  after(async () => await site?.close());

  async function join(id: string): Promise<Component> {
    const component = await connect({ url: site.coordinator.url, id, type: "fault", cacheDirectory: false });
    open.push(component);
    return component;
  }

  it("loses nothing that was confirmed, and runs no handler twice", async () => {
    const [sender, target] = await Promise.all([join("sender"), join("target")]);
    const runs = new Map<number, number>();
    target.handle<number>("work", ({ body }) => void runs.set(body, (runs.get(body) ?? 0) + 1), { concurrency: 100 });
    target.handle("echo", ({ body }) => body);

    const confirmed = new Set<number>();
    const refused = new Map<string, number>();
    let sent = 0;
    const numbers = Array.from({ length: size.commands }, (_, n) => n);
    const sending = pooled(numbers, 200, async (n) => {
      try {
        await sender.command({ component: "target" }, "work", n, { sendTimeoutMs: 120_000 });
        confirmed.add(n);
      } catch (error) {
        if (!isMusterError(error)) throw error;
        refused.set(error.code, (refused.get(error.code) ?? 0) + 1);
      }
      sent += 1;
    });
    for (let kill = 1; kill <= size.kills; kill += 1) {
      const share = (kill / (size.kills + 1)) * size.commands;
      await eventually(() => expect(sent).to.be.at.least(share), { timeoutMs: 120_000, everyMs: 5 });
      const asked = sender.request({ component: "target" }, "echo", kill, { timeoutMs: 60_000 });
      await site.killBroker();
      expect(await asked, "a request outlives the broker").to.equal(kill);
    }
    await sending;

    await eventually(() => expect([...confirmed].filter((n) => !runs.has(n))).to.deep.equal([]), { timeoutMs: 60_000 });
    const twice = [...runs].filter(([, times]) => times > 1);
    // biome-ignore lint/suspicious/noConsole: the table is what this test is run for.
    console.table({
      ...size,
      confirmed: confirmed.size,
      ...Object.fromEntries(refused),
      handled: runs.size,
      twice: twice.length,
    });
    expect(twice).to.deep.equal([]);
    expect(confirmed.size).to.equal(size.commands);
    // One that could not reach the broker for a while has gone by HTTP meanwhile.
    await eventually(() => expect([sender.way, target.way]).to.deep.equal(["amqp", "amqp"]), { timeoutMs: 20_000 });
  });
});
