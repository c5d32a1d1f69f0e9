import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { basicAuthorization } from "../../config-db/basic-auth.ts";
import { type Broker, startBroker } from "../../scripts/broker.ts";
import { findFreePort } from "../../scripts/ports.ts";

/** A broker's addresses, both with the credentials of an administrator. */
export interface BrokerAddresses {
  url: string;
  managementUrl: string;
}

export interface Vhost extends BrokerAddresses {
  vhost: string;
  /**
   * Asks the broker's management API: `api("GET", "/queues/{vhost}")`. `{vhost}` stands for this vhost.
   * Resolves with the answer's JSON, undefined when it has none; any other status than 2xx is an error.
   */
  api(method: string, path: string, body?: unknown): Promise<unknown>;
  /** Deletes the vhost with all that is in it; its connections are closed by the broker. */
  close(): Promise<void>;
}

/** Starting a node the first time takes 8 to 25 s. */
export const brokerStartTimeoutMs = 90_000;

let started: Promise<{ broker: Broker; directory: string }> | undefined;

/**
 * The broker of this test run: the one that the environment names (MUSTER_TEST_AMQP_URL with
 * MUSTER_TEST_MANAGEMENT_URL), else a private node, started by the first caller and stopped at the end of the run.
 */
export async function sharedBroker(): Promise<BrokerAddresses> {
  const { MUSTER_TEST_AMQP_URL: url, MUSTER_TEST_MANAGEMENT_URL: managementUrl } = process.env;
  if (url !== undefined && managementUrl !== undefined) return { url, managementUrl };
  started ??= startOwn();
  return (await started).broker;
}

/** Called once by the root hooks. */
export async function stopSharedBroker(): Promise<void> {
  const own = await started?.catch(() => undefined);
  started = undefined;
  if (own === undefined) return;
  await own.broker.close();
  await rm(own.directory, { recursive: true, force: true });
}

async function startOwn(): Promise<{ broker: Broker; directory: string }> {
  const directory = await mkdtemp(join(tmpdir(), "muster-test-broker-"));
  return { broker: await startBroker({ directory, port: await findFreePort() }), directory };
}

/** An empty vhost of the shared broker with a name of its own. */
export async function freshVhost(): Promise<Vhost> {
  const broker = await sharedBroker();
  const vhost = `test-${randomBytes(6).toString("hex")}`;
  const api = (method: string, path: string, body?: unknown) =>
    askManagement(broker.managementUrl, method, path.replaceAll("{vhost}", vhost), body);
  await api("PUT", "/vhosts/{vhost}", {});
  await api("PUT", `/permissions/{vhost}/${new URL(broker.url).username}`, {
    configure: ".*",
    write: ".*",
    read: ".*",
  });
  let closing: Promise<void> | undefined;
  return {
    url: `${broker.url.replace(/\/$/, "")}/${vhost}`,
    managementUrl: broker.managementUrl,
    vhost,
    api,
    close: () => {
      closing ??= api("DELETE", "/vhosts/{vhost}").then(() => undefined);
      return closing;
    },
  };
}

/**
 * Gives the enclosing `describe` a fresh vhost: made before its tests, deleted after them. What it returns can be read
 * inside hooks and tests only.
 */
export function useVhost(): Vhost {
  let vhost: Vhost | undefined;
  const current = () => {
    if (vhost === undefined) throw new Error("the vhost exists only inside hooks and tests: read it there");
    return vhost;
  };
  before(async function () {
    this.timeout(brokerStartTimeoutMs);
    vhost = await freshVhost();
  });
  after(async () => await vhost?.close());
  return {
    get url() {
      return current().url;
    },
    get managementUrl() {
      return current().managementUrl;
    },
    get vhost() {
      return current().vhost;
    },
    api: (method, path, body) => current().api(method, path, body),
    close: () => current().close(),
  };
}

async function askManagement(baseUrl: string, method: string, path: string, body?: unknown): Promise<unknown> {
  // fetch refuses credentials in a URL.
  const base = new URL(baseUrl);
  const response = await fetch(`${base.origin}/api${path}`, {
    method,
    headers: { authorization: basicAuthorization(base), "content-type": "application/json" },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text === "" ? undefined : JSON.parse(text);
}
