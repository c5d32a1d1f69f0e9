import { expect } from "chai";
import { type StartingNode, untilServing, type Work } from "../../scripts/broker/readiness.ts";
import { cpuTimeOf } from "../../scripts/process-identity.ts";

const patience = { askEveryMs: 1, lookEveryMs: 5, idleMaxMs: 50, unseenMaxMs: 200 };

/** A node that does as `work` says for `looks` looks at it, nothing after them, and answers once it was looked at `serves` times. */
function fakeNode({ looks = 0, serves = Number.POSITIVE_INFINITY, work = (_look: number): Work => idle }) {
  let seen = 0;
  const node: StartingNode = {
    answers: async () => seen >= serves,
    exited: new Promise(() => undefined),
    work: async () => {
      seen += 1;
      return work(Math.min(seen, looks));
    },
  };
  return node;
}

const idle: Work = { cpuMs: 0, loggedBytes: 0 };
const busy = (look: number): Work => ({ ...idle, cpuMs: look * 1_000 });
const logging = (look: number): Work => ({ ...idle, loggedBytes: look });

describe("a node that is starting", () => {
  const wait = async (node: StartingNode) => {
    const lines: string[] = [];
    return { failure: await untilServing(node, (line) => lines.push(line), undefined, patience), lines };
  };

  for (const [what, work] of Object.entries({ "uses the processor": busy, logs: logging })) {
    it(`is waited for while it ${what}, many times as long as for an idle one, and told of`, async () => {
      const { failure, lines } = await wait(fakeNode({ looks: 60, serves: 60, work }));
      expect(failure).to.equal(undefined);
      expect(lines).to.have.length.above(50);
      expect(lines[0]).to.match(/no answer after 0 s, at work/);
    });
  }

  it("is given up when it gets on no more", async () => {
    const { failure, lines } = await wait(fakeNode({ looks: 20, work: busy }));
    expect(failure).to.match(/did nothing for 0.05 s/);
    expect(lines).to.have.length(19 + 9);
    expect(lines.at(-1)).to.match(/not at work/);
  });

  it("is given up when its processor time is what its timers take", async () => {
    let usedMs = 0;
    const ticking = () => {
      usedMs += 0.1;
      return { ...idle, cpuMs: usedMs };
    };
    expect((await wait(fakeNode({ work: ticking }))).failure).to.match(/did nothing/);
  });

  it("is waited for longer where its processor time is not known", async () => {
    const { failure } = await wait(fakeNode({ work: () => ({ ...idle, cpuMs: undefined }) }));
    expect(failure).to.match(/did nothing for 0.2 s/);
  });

  it("is given up at once when it ends", async () => {
    const node = { ...fakeNode({}), exited: Promise.resolve("exit code 1") };
    expect((await wait(node)).failure).to.equal("ended while starting (exit code 1)");
  });

  it("is told by its processor time, where the system tells it", async function () {
    const before = await cpuTimeOf(process.pid);
    if (before === undefined) return this.skip();
    const used = process.cpuUsage();
    for (let spentMs = 0; spentMs < 100; ) {
      const { user, system } = process.cpuUsage(used);
      spentMs = (user + system) / 1000;
    }
    const after = (await cpuTimeOf(process.pid)) ?? 0;
    expect(after - before).to.be.within(80, 1_000);
  });
});
