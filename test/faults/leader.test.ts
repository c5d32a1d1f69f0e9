import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import type { ComponentDocument, SiteDocument } from "../../config-db/generated/types.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

describe("the leading coordinator of a site", function () {
  this.timeout(90_000);
  const vhost = useVhost();
  let embedded: Embedded;
  let proxy: FaultProxy;
  let leader: RunningCoordinator;
  let other: RunningCoordinator;
  const renewals: NodeJS.Timeout[] = [];

  const registry = () => new Store(embedded.url).database(databases.registry);
  const site = () => registry().get<SiteDocument & { _rev: string }>("site:local");
  const record = (id: string) => registry().get<ComponentDocument & { _rev: string }>(`component:${id}`);

  beforeEach(async () => {
    embedded = await startEmbedded();
    await install(new Store(embedded.url));
    proxy = await startProxy({ port: Number(new URL(embedded.url).port) });
    // The broker takes a peer for gone after two heartbeats; the default of 10 s is for networks, not for impatient tests.
    const options = { amqpUrl: `${vhost.url}?heartbeat=2`, args: ["--amqp-management-url", vhost.managementUrl] };
    leader = await startCoordinator({
      ...options,
      couchdbUrl: `http://127.0.0.1:${proxy.port}`,
      args: [...options.args, "--log-level", "debug"],
    });
    await eventually(async () => expect((await site())?.epoch).to.equal(1), { timeoutMs: 20_000 });
    other = await startCoordinator({ ...options, couchdbUrl: embedded.url });
    // The first leases have the time on top in which a leader reads what was sent to its predecessor.
    await register(leader, "first", 1_000);
    await eventually(async () => expect(await record("first")).to.include({ state: "expired" }));
  });
  afterEach(async () => {
    for (const timer of renewals.splice(0)) clearInterval(timer);
    await Promise.all([leader?.close(), other?.close()]);
    await proxy?.close();
    await embedded?.close();
  });

  const register = (at: RunningCoordinator, id: string, ttlMs: number) =>
    at.call("PUT", `/v1/components/${id}`, { type: "t", instance: "p1", ttlMs });

  /** Renews at whichever coordinator answers, as a client does. */
  function keepRenewing(id: string, everyMs: number, coordinators: RunningCoordinator[]): void {
    const renew = async () => {
      for (const coordinator of coordinators) {
        const answer = await fetch(`${coordinator.url}/v1/components/${id}/lease`, {
          method: "PUT",
          signal: AbortSignal.timeout(everyMs),
        }).catch(() => undefined);
        if (answer?.ok === true) return;
      }
    };
    renewals.push(setInterval(() => void renew(), everyMs));
  }

  it("is replaced within 5 s when it is killed, and nobody alive expires by the change", async () => {
    for (const id of ["live-1", "live-2"]) {
      await register(other, id, 4_000);
      keepRenewing(id, 700, [leader, other]);
    }
    await register(other, "silent", 2_000);
    const killedMs = performance.now();
    await leader.process.kill("SIGKILL");
    await eventually(async () => expect((await site())?.epoch).to.equal(2));
    expect(performance.now() - killedMs).to.be.below(5_000);
    await eventually(async () => expect(await record("silent")).to.include({ state: "expired" }), {
      timeoutMs: 15_000,
    });
    // Two TTLs on: whoever the change of leader had cost its lease would show it by now.
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    for (const id of ["live-1", "live-2"]) {
      const kept = await record(id);
      expect(kept).to.include({ state: "up" });
      expect(kept?._rev, "nothing was written for it since it registered").to.match(/^1-/);
    }
  });

  it("is replaced when it is frozen, and follows when it thaws, without a wrong word", async () => {
    await register(other, "live", 4_000);
    keepRenewing("live", 700, [other]);
    await leader.process.kill("SIGSTOP");
    await eventually(async () => expect((await site())?.epoch).to.equal(2), { timeoutMs: 20_000 });
    const successor = (await site())?.leader;
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    await leader.process.kill("SIGCONT");
    await leader.process.line(/another coordinator leads now/);
    await new Promise((resolve) => setTimeout(resolve, 5_000));
    expect(await site()).to.include({ epoch: 2, leader: successor });
    expect((await record("live"))?._rev).to.match(/^1-/);
    // It is of use again: it passes renewals on.
    await eventually(async () => expect((await leader.call("PUT", "/v1/components/live/lease")).status).to.equal(200));
  });

  it("has the decision refused that was on its way when it was frozen and replaced", async () => {
    await register(other, "late", 2_000);
    await eventually(async () => expect((await leader.call("GET", "/v1/components/late")).status).to.equal(200));
    // What the leader says to the store from now on arrives 20 s later.
    proxy.slow(20_000);
    const slowMs = performance.now();
    const untilMs = (ms: number) => new Promise((resolve) => setTimeout(resolve, slowMs + ms - performance.now()));
    await untilMs(2_700);
    await leader.process.kill("SIGSTOP");
    keepRenewing("late", 400, [other]);
    await eventually(async () => expect((await site())?.epoch).to.equal(2), { timeoutMs: 16_000 });
    await untilMs(24_000);
    await leader.process.kill("SIGCONT");
    proxy.heal();
    await leader.process.line(/a decision waits/, 40_000);
    expect((await site())?.epoch).to.equal(2);
    expect(await record("late")).to.include({ state: "up" });
    expect((await record("late"))?._rev).to.match(/^1-/);
  });
});
