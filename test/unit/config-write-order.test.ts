import { expect } from "chai";
import { WriteOrder } from "../../coordinator/config/write-order.ts";

/** A write that is under way until it is told to end, and what began, in order. */
function writes() {
  const order = new WriteOrder();
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const start = (layer: string, name = layer) => {
    const done = order.run(layer, async () => {
      begun.push(name);
      await new Promise<void>((resolve) => ends.set(name, resolve));
    });
    return done;
  };
  const end = async (name: string) => {
    ends.get(name)?.();
    await new Promise(setImmediate);
  };
  return { order, begun, start, end };
}

describe("the order of configuration writes", () => {
  it("runs layers of different components side by side and those of one in turn", async () => {
    const { begun, start, end } = writes();
    const all = [start("component:a", "a1"), start("component:b", "b1"), start("component:a", "a2")];
    await new Promise(setImmediate);
    expect(begun).to.deep.equal(["a1", "b1"]);
    await end("a1");
    expect(begun).to.deep.equal(["a1", "b1", "a2"]);
    await Promise.all([end("b1"), end("a2"), ...all]);
  });

  it("runs a shared layer alone", async () => {
    const { begun, start, end } = writes();
    const all = [start("component:a"), start("platform"), start("component:b"), start("type:t")];
    await new Promise(setImmediate);
    expect(begun).to.deep.equal(["component:a"]);
    await end("component:a");
    expect(begun).to.deep.equal(["component:a", "platform"]);
    await end("platform");
    expect(begun).to.deep.equal(["component:a", "platform", "component:b"]);
    await end("component:b");
    expect(begun.at(-1)).to.equal("type:t");
    await Promise.all([end("type:t"), ...all]);
  });

  it("goes on after a write that failed", async () => {
    const { order } = writes();
    const failed = order.run("platform", () => Promise.reject(new Error("refused")));
    const next = order.run("platform", () => Promise.resolve("written"));
    expect(await failed.catch((error: Error) => error.message)).to.equal("refused");
    expect(await next).to.equal("written");
  });
});
