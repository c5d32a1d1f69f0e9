/** The few things that only the broker's management API can do: setting policies, listing bindings. */
import { isDeepStrictEqual } from "node:util";
import { basicAuthorization } from "../../config-db/basic-auth.ts";
import { type PolicyPlan, policyPriority } from "./topology.ts";

const timeoutMs = 30_000;

/**
 * Where the management API of an AMQP broker is when nothing else was said: the same host and credentials, port 15672
 * (15671 for `amqps`).
 */
export function defaultManagementUrl(amqpUrl: string): string {
  const url = new URL(amqpUrl);
  const secure = url.protocol === "amqps:";
  const credentials = url.username === "" ? "guest:guest" : `${url.username}:${url.password}`;
  return `${secure ? "https" : "http"}://${credentials}@${url.hostname}:${secure ? 15671 : 15672}`;
}

/** The virtual host of an AMQP URL, decoded; "/" when it has none. */
export function vhostOf(amqpUrl: string): string {
  const path = new URL(amqpUrl).pathname.replace(/^\//, "");
  return path === "" ? "/" : decodeURIComponent(path);
}

export interface Binding {
  exchange: string;
  key: string;
  queue: string;
}

export class Management {
  readonly #base: string;
  readonly #authorization: string;
  readonly #vhost: string;

  /** @param url with credentials of a user who may set policies (tags `policymaker` or `administrator`). */
  constructor(url: string, vhost: string) {
    const parsed = new URL(url);
    this.#base = `${parsed.origin}${parsed.pathname.replace(/\/$/, "")}/api`;
    this.#authorization = basicAuthorization(parsed);
    this.#vhost = encodeURIComponent(vhost);
  }

  /** The API's address without credentials, for logs. */
  get url(): string {
    return this.#base;
  }

  /** Sets the policies that are not there or differ. @returns the names of those that it set. */
  async applyPolicies(plans: PolicyPlan[]): Promise<string[]> {
    const found = await this.#ask<StoredPolicy[]>("GET", `/policies/${this.#vhost}`);
    const wanted = plans.map(({ applyTo = "queues", priority = policyPriority, ...plan }) => ({
      ...plan,
      priority,
      "apply-to": applyTo,
    }));
    const changed = wanted.filter((plan) => {
      const stored = found.find(({ name }) => name === plan.name);
      return !(
        stored?.pattern === plan.pattern &&
        stored.priority === plan.priority &&
        isDeepStrictEqual(stored.definition, plan.definition)
      );
    });
    for (const { name, ...policy } of changed)
      await this.#ask("PUT", `/policies/${this.#vhost}/${encodeURIComponent(name)}`, policy);
    return changed.map(({ name }) => name);
  }

  /** @returns whether it was there. */
  async deletePolicy(name: string): Promise<boolean> {
    const path = `/policies/${this.#vhost}/${encodeURIComponent(name)}`;
    if ((await this.#ask("GET", path)) === undefined) return false;
    await this.#ask("DELETE", path);
    return true;
  }

  /** Sets a runtime parameter (of a plugin) that is not there or differs. @returns whether it set it. */
  async setParameter(component: string, name: string, value: unknown): Promise<boolean> {
    const path = `/parameters/${component}/${this.#vhost}/${encodeURIComponent(name)}`;
    const stored = await this.#ask<{ value: unknown } | undefined>("GET", path);
    if (stored !== undefined && isDeepStrictEqual(stored.value, value)) return false;
    await this.#ask("PUT", path, { value });
    return true;
  }

  async deleteParameter(component: string, name: string): Promise<void> {
    await this.#ask("DELETE", `/parameters/${component}/${this.#vhost}/${encodeURIComponent(name)}`);
  }

  async parameterNames(component: string): Promise<string[]> {
    const rows = await this.#ask<{ name: string }[] | undefined>("GET", `/parameters/${component}/${this.#vhost}`);
    return (rows ?? []).map(({ name }) => name);
  }

  /** The queues bound to an exchange; none when the exchange is not there. */
  async bindingsFrom(exchange: string): Promise<Binding[]> {
    const path = `/exchanges/${this.#vhost}/${encodeURIComponent(exchange)}/bindings/source`;
    const rows = await this.#ask<StoredBinding[] | undefined>("GET", path);
    return (rows ?? [])
      .filter((row) => row.destination_type === "queue")
      .map((row) => ({ exchange, key: row.routing_key, queue: row.destination }));
  }

  async exchangeExists(name: string): Promise<boolean> {
    return (await this.#ask("GET", `/exchanges/${this.#vhost}/${encodeURIComponent(name)}`)) !== undefined;
  }

  /** @returns the answer's JSON; undefined for an empty one and for 404. */
  async #ask<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(`${this.#base}${path}`, {
      method,
      headers: { authorization: this.#authorization, "content-type": "application/json" },
      signal: AbortSignal.timeout(timeoutMs),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (response.status === 404) return undefined as Answer;
    if (!response.ok) throw new Error(`${method} ${this.#base}${path}: ${response.status} ${text.slice(0, 200)}`);
    return (text === "" ? undefined : JSON.parse(text)) as Answer;
  }
}

interface StoredPolicy {
  name: string;
  pattern: string;
  priority: number;
  definition: Record<string, unknown>;
}

interface StoredBinding {
  destination: string;
  destination_type: string;
  routing_key: string;
}
