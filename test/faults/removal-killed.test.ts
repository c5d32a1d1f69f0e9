import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

describe("a coordinator that is killed in the middle of a removal", function () {
  this.timeout(90_000);
  const vhost = useVhost();
  let store: Embedded;
  let proxy: FaultProxy;
  let killed: RunningCoordinator;
  let other: RunningCoordinator;

  before(async () => {
    store = await startEmbedded();
    const broker = new URL(vhost.url);
    proxy = await startProxy({ port: Number(broker.port) });
    const options = { couchdbUrl: store.url, args: ["--amqp-management-url", vhost.managementUrl] };
    broker.port = String(proxy.port);
    killed = await startCoordinator({ ...options, amqpUrl: broker.href });
    other = await startCoordinator({ ...options, amqpUrl: vhost.url });
  });
  after(async () => {
    await Promise.all([killed?.close(), other?.close()]);
    await proxy?.close();
    await store?.close();
  });

  const queuesOf = async (id: string) => {
    const queues = (await vhost.api("GET", "/queues/{vhost}")) as { name: string }[];
    return queues.map(({ name }) => name).filter((name) => name.startsWith(`muster.${id}.`));
  };
  const tombstone = async (id: string) => {
    const [leaf] = await new Store(store.url).database<ComponentDocument>(databases.registry).leaves(`component:${id}`);
    return leaf;
  };
  const command = (to: string, at: RunningCoordinator) =>
    at.call("POST", "/v1/commands", { to: { component: to }, name: "x", track: false });

  it("leaves no queues behind: who leads next takes them away, and not those of what is registered again", async () => {
    for (const id of ["half", "again"]) {
      await killed.call("PUT", `/v1/components/${id}`, { type: "t", ttlMs: 600_000 });
      // Each declares the queues; who is at it when it hears of the removal would take them away for that.
      await eventually(async () => expect((await other.call("GET", `/v1/components/${id}`)).status).to.equal(200));
      for (const at of [killed, other]) expect((await command(id, at)).status).to.equal(202);
    }
    // The store hears of the removals, the broker does not.
    proxy.swallow("up", "down");
    for (const id of ["half", "again"]) {
      void killed.call("DELETE", `/v1/components/${id}?purge=true`).catch(() => undefined);
      await eventually(async () => expect(await tombstone(id)).to.include({ _deleted: true }));
    }
    await killed.process.kill("SIGKILL");
    expect(await queuesOf("half")).to.have.length(4);
    expect((await other.call("PUT", "/v1/components/again", { type: "t", ttlMs: 600_000 })).status).to.equal(201);
    // The broker hears that the connections have ended, and chooses the other.
    proxy.cut();
    await eventually(async () => expect(await queuesOf("half")).to.deep.equal([]), { timeoutMs: 20_000 });
    await eventually(async () => expect(await tombstone("half")).not.to.have.property("removing"));
    // Besides it is told of its settings: who leads next cannot know whether it was.
    let kept = 0;
    await eventually(async () => {
      const { messages } = (await other.call("GET", "/v1/components/again/inbox")).body;
      kept += messages.filter(({ kind }: { kind: string }) => kind === "command").length;
      expect(kept).to.equal(2);
    });
  });
});
