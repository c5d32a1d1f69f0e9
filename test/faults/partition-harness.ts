/**
 * Sites in processes of their own with a network between them that can fail: every store and broker is reached by the other
 * sites through proxies of its own, one for each pair and direction.
 */
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { freshVhost, type Vhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

export interface PartitionOptions {
  names: string[];
  /** With a broker for each, linked with the others'. */
  brokers?: boolean;
  /** Which of them uses the CouchDB that MUSTER_TEST_COUCHDB_URL names, where it names one. */
  couchAt?: string;
}

interface Link {
  proxy: FaultProxy;
  /** Who reaches whom through it. */
  from: string;
  to: string;
}

export interface PartitionSite {
  name: string;
  coordinator: RunningCoordinator;
  vhost: Vhost | undefined;
  call: RunningCoordinator["call"];
}

const patient = { timeoutMs: 30_000, everyMs: 100 };

export class Partition {
  readonly sites: PartitionSite[] = [];
  readonly #links: Link[] = [];
  readonly #closing: (() => Promise<void>)[] = [];

  /** Resolves when every site has everything of every other. */
  static async start({ names, brokers = false, couchAt }: PartitionOptions): Promise<Partition> {
    const partition = new Partition();
    try {
      await Promise.all(names.map((name) => partition.#startSite(name, brokers, name === couchAt)));
      partition.sites.sort((a, b) => (a.name < b.name ? -1 : 1));
      for (const site of partition.sites) {
        for (const peer of partition.sites) if (site !== peer) await partition.#join(site, peer);
      }
      await partition.joined();
    } catch (error) {
      await partition.close();
      throw error;
    }
    return partition;
  }

  site(name: string): PartitionSite {
    const found = this.sites.find((site) => site.name === name);
    if (found === undefined) throw new Error(`no site ${name}`);
    return found;
  }

  /** The proxies through which these sites reach each other; all without arguments. */
  links(one?: string, other?: string): FaultProxy[] {
    const between = ({ from, to }: Link) =>
      (one === undefined || from === one || to === one) && (other === undefined || from === other || to === other);
    return this.#links.filter(between).map(({ proxy }) => proxy);
  }

  /** Those through which `from` reaches `to`: only connections that `from` opens. */
  linksFrom(from: string, to: string): FaultProxy[] {
    return this.#links.filter((link) => link.from === from && link.to === to).map(({ proxy }) => proxy);
  }

  /** Cuts a site off from all others. */
  cutOff(name: string): void {
    for (const proxy of this.links(name)) proxy.cut();
  }

  heal(): void {
    for (const proxy of this.links()) proxy.heal();
  }

  /** Resolves when all sites say that replication with all others works and is through. */
  async joined(timeoutMs = patient.timeoutMs): Promise<void> {
    await eventually(
      async () => {
        for (const { name, call, vhost } of this.sites) {
          // A link between brokers stands when it has bound at this end what is bound at the other.
          const bound = (await vhost?.api("GET", "/exchanges/{vhost}/muster.remote/bindings/source")) as
            | object[]
            | undefined;
          if (bound !== undefined && bound.length < this.sites.length)
            throw new Error(`${name} has ${bound.length} links`);
          for (const row of (await call("GET", "/v1/sites")).body.sites) {
            if (row.state !== "up") throw new Error(`${name} says of ${row.name}: ${JSON.stringify(row)}`);
          }
        }
      },
      { ...patient, timeoutMs },
    );
  }

  /** What the coordinators said last: for a test that failed. */
  lastWords(): string {
    return this.sites
      .map(({ name, coordinator }) => `${name}:\n  ${coordinator.process.lines.slice(-15).join("\n  ")}`)
      .join("\n");
  }

  async close(): Promise<void> {
    for (let close = this.#closing.pop(); close !== undefined; close = this.#closing.pop()) await close();
  }

  async #startSite(name: string, withBroker: boolean, onCouch: boolean): Promise<void> {
    const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;
    const vhost = withBroker ? await freshVhost() : undefined;
    if (vhost !== undefined) this.#closing.push(() => vhost.close());
    const couchdbUrl = onCouch ? couchUrl : undefined;
    if (couchdbUrl !== undefined) {
      await clearCouch(couchdbUrl);
      this.#closing.push(() => clearCouch(couchdbUrl));
    }
    const coordinator = await startCoordinator({
      site: name,
      ...(vhost === undefined ? {} : { amqpUrl: vhost.url, args: ["--amqp-management-url", vhost.managementUrl] }),
      ...(couchdbUrl === undefined ? {} : { couchdbUrl }),
    });
    this.#closing.push(() => coordinator.close());
    this.sites.push({ name, coordinator, vhost, call: coordinator.call });
  }

  async #join(site: PartitionSite, peer: PartitionSite): Promise<void> {
    const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;
    const { body } = await peer.call("GET", "/v1/sites");
    const own: string = body.sites.find((row: { self: boolean }) => row.self).couchdbUrl;
    // A CouchDB's credentials are not told.
    const storeUrl = couchUrl !== undefined && new URL(couchUrl).port === new URL(own).port ? couchUrl : own;
    const couchdbUrl = await this.#through(site, peer, storeUrl);
    const amqpUrl = peer.vhost === undefined ? {} : { amqpUrl: await this.#through(site, peer, peer.vhost.url) };
    const answer = await site.call("POST", "/v1/sites", { name: peer.name, couchdbUrl, ...amqpUrl });
    if (answer.status !== 201)
      throw new Error(`${site.name} does not take ${peer.name}: ${JSON.stringify(answer.body)}`);
  }

  async #through(from: PartitionSite, to: PartitionSite, address: string): Promise<string> {
    const url = new URL(address);
    const proxy = await startProxy({ host: url.hostname, port: Number(url.port) });
    this.#closing.push(() => proxy.close());
    this.#links.push({ proxy, from: from.name, to: to.name });
    url.hostname = "127.0.0.1";
    url.port = String(proxy.port);
    return url.href.replace(/\/$/, "");
  }
}

async function clearCouch(url: string): Promise<void> {
  const store = new Store(url);
  for (const name of Object.values(databases))
    await store.request({ method: "DELETE", path: name }).catch(() => undefined);
}

/** An edit that a site took. `value` is unique, so that it can be found wherever it went. */
export interface TakenEdit {
  site: string;
  layer: string;
  field: string;
  value: string;
}

/** Everything of the configuration that operators see of a site, to be compared with another's. */
export async function visibleState({ call }: PartitionSite, layers: string[]): Promise<Record<string, unknown>> {
  const state: Record<string, unknown> = {};
  for (const layer of layers) {
    const { status, body } = await call("GET", `/v1/config/layers/${layer}`);
    state[layer] = status === 200 ? body : status;
  }
  state.conflicts = (await call("GET", "/v1/conflicts")).body.conflicts;
  const { body } = await call("GET", "/v1/components?state=any&limit=1000");
  state.components = body.components;
  return state;
}

/** Resolves with the milliseconds until all sites show the same. */
export async function untilEqual(partition: Partition, layers: string[], timeoutMs: number): Promise<number> {
  const from = performance.now();
  await eventually(
    async () => {
      const [first, ...others] = await Promise.all(partition.sites.map((site) => visibleState(site, layers)));
      for (const other of others) {
        for (const [part, value] of Object.entries(first as object)) {
          const [one, two] = [JSON.stringify(value), JSON.stringify(other[part])];
          if (one !== two) throw new Error(`${part} differs: ${one.slice(0, 1500)} and ${two?.slice(0, 1500)}`);
        }
      }
    },
    { timeoutMs, everyMs: 100 },
  );
  return performance.now() - from;
}

/** Where each edit is: in the layer as it stands, in its history, or in a listed conflict; those that are nowhere. */
export async function lostEdits({ call }: PartitionSite, edits: TakenEdit[]): Promise<TakenEdit[]> {
  const texts = new Map<string, string>();
  for (const layer of new Set(edits.map((edit) => edit.layer))) {
    let text = JSON.stringify((await call("GET", `/v1/config/layers/${layer}`)).body);
    for (let cursor = ""; ; ) {
      const page = await call("GET", `/v1/config/layers/${layer}/history?limit=1000${cursor}`);
      text += JSON.stringify(page.body);
      if (page.body.cursor === undefined) break;
      cursor = `&cursor=${encodeURIComponent(page.body.cursor)}`;
    }
    texts.set(layer, text);
  }
  const conflicts = JSON.stringify((await call("GET", "/v1/conflicts")).body);
  return edits.filter(({ layer, value }) => !texts.get(layer)?.includes(value) && !conflicts.includes(value));
}
