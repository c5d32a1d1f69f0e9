import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type Component, type ConnectOptions, connect, isMusterError } from "../../clients/typescript/src/index.ts";
import { componentPlan, sitePlan } from "../../coordinator/messaging/topology.ts";
import { useVhost } from "../support/broker.ts";
import { declare } from "../support/declare.ts";
import { eventually } from "../support/eventually.ts";
import { FakeCoordinator, problem } from "../support/fake-coordinator.ts";

describe("the client over AMQP", () => {
  const vhost = useVhost();
  const coordinator = new FakeCoordinator();
  const open: Component[] = [];
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-client-"));
    await coordinator.start();
    coordinator.amqpUrl = vhost.url;
    await declare(vhost.url, sitePlan("test"));
  });
  afterEach(async () => {
    coordinator.override = undefined;
    await Promise.all(open.splice(0).map((component) => component.close()));
  });
  after(async () => {
    await coordinator.stop();
    await rm(directory, { recursive: true });
  });

  async function join2(name: string, options: Partial<ConnectOptions> = {}): Promise<Component> {
    const id = `${name}-${randomUUID().slice(0, 8)}`;
    const type = options.type ?? "worker";
    await declare(vhost.url, componentPlan({ id, type }));
    const component = await connect({ url: coordinator.url, id, type, cacheDirectory: directory, ...options });
    open.push(component);
    return component;
  }

  it("carries a request and its reply", async () => {
    const [asker, answerer] = await Promise.all([join2("asker"), join2("answerer")]);
    answerer.handle<{ a: number }>("double", ({ body }) => ({ b: body.a * 2 }));
    expect(asker.way).to.equal("amqp");
    expect(await asker.request({ component: answerer.id }, "double", { a: 4 })).to.deep.equal({ b: 8 });
  });

  it("tells the handler's failure to the requester", async () => {
    const [asker, answerer] = await Promise.all([join2("asker"), join2("answerer")]);
    answerer.handle("fail", () => {
      throw new Error("no ink");
    });
    const error = await asker.request({ component: answerer.id }, "fail").catch((thrown: unknown) => thrown);
    expect(isMusterError(error, "handler-failed")).to.equal(true);
    expect((error as Error).message).to.contain("no ink");
  });

  it("delivers a command that was sent while its target was down", async () => {
    const id = `late-${randomUUID().slice(0, 8)}`;
    await declare(vhost.url, componentPlan({ id, type: "worker" }));
    const sender = await join2("sender");
    await sender.command({ component: id }, "greet", { n: 1 });
    const seen: unknown[] = [];
    const target = await connect({ url: coordinator.url, id, type: "worker", cacheDirectory: directory });
    open.push(target);
    target.handle("greet", ({ body }) => void seen.push(body));
    await eventually(() => expect(seen).to.deep.equal([{ n: 1 }]));
  });

  it("asks the bridge about a target that the broker does not know", async () => {
    const sender = await join2("sender");
    coordinator.override = ({ path }) => (path === "/v1/commands" ? problem(404, "no-such-target") : undefined);
    const error = await sender.command({ component: "nobody" }, "greet").catch((thrown: unknown) => thrown);
    expect(isMusterError(error, "no-such-target")).to.equal(true);
  });
});
