/** What a component says of itself when it connects, checked at the door. */
import { createHash } from "node:crypto";
import { homedir } from "node:os";
import { join } from "node:path";
import { MusterError } from "../../../config-db/errors.ts";
import type { Health, Settings } from "../../../config-db/generated/types.ts";
import { limits } from "../../../config-db/limits.ts";
import { idPattern } from "../../../config-db/names.ts";
import { type Logger, silent } from "./logger.ts";

export interface ConnectOptions<S extends object = Settings> {
  /** Base URL of a coordinator, or of several of one site: a list, or commas between. Default: `MUSTER_URL`. */
  url?: string | readonly string[];
  /** The component's id, the same after every restart. Default: `MUSTER_COMPONENT_ID`. */
  id?: string;
  /** Default: `MUSTER_TOKEN`, or none where the site has authentication off. */
  token?: string;
  type: string;
  subsystem?: string;
  /** Where others reach what this component offers: name → URL. */
  endpoints?: Record<string, string>;
  tags?: readonly string[];
  metadata?: Record<string, unknown>;
  version?: string;
  /** Without a sign of life for that long the component is expired. 1,000–3,600,000, default 30,000. */
  ttlMs?: number;
  /** `auto` (default): AMQP whenever the broker can be reached, the bridge's HTTP inbox otherwise, and back. */
  transport?: "auto" | "amqp" | "http";
  /**
   * Where the last known configuration is kept, in a file readable by this user alone: it holds what the component was
   * given, resolved secrets included. `false` keeps nothing. Default: `muster` in the user's cache directory.
   */
  cacheDirectory?: string | false;
  /**
   * Checks settings before anything sees them and gives them their type; what it throws is reported as the reason of a
   * rejection. Default: the JSON Schema of the component's type, where one is known. `false` checks nothing again.
   */
  validate?: ((settings: Settings) => S) | false;
  /** Asked at every renewal; failing when it throws. Default: nothing is said, which counts as passing. */
  health?: () => Health;
  /** How long `connect` tries to reach a coordinator when no configuration is kept on disk. Default 30,000. */
  connectTimeoutMs?: number;
  /** Unanswered messages that this process takes at a time, for all handlers together. 1–1,000, default 100. */
  prefetch?: number;
  /** What waits to be sent while nothing can be reached. Beyond it, sending is refused with `too-many`. */
  outbox?: { messagesMax?: number; bytesMax?: number };
  logger?: Logger;
}

/** Options with nothing left open. */
export interface ResolvedOptions<S extends object = Settings> {
  urls: readonly string[];
  id: string;
  token: string | undefined;
  type: string;
  subsystem: string | undefined;
  registration: Record<string, unknown>;
  ttlMs: number;
  transport: "auto" | "amqp" | "http";
  cacheFile: string | undefined;
  validate: ((settings: Settings) => S) | false | undefined;
  health: (() => Health) | undefined;
  connectTimeoutMs: number;
  prefetch: number;
  outbox: { messagesMax: number; bytesMax: number };
  logger: Logger;
}

/** @throws MusterError `invalid-request` that names the option, what it was and what it may be. */
export function resolveOptions<S extends object>(
  options: ConnectOptions<S>,
  environment: Record<string, string | undefined> = process.env,
): ResolvedOptions<S> {
  const urls = urlsOf(options.url ?? environment.MUSTER_URL);
  const id = idOf("id (or MUSTER_COMPONENT_ID)", options.id ?? environment.MUSTER_COMPONENT_ID);
  const type = idOf("type", options.type);
  const { subsystem, endpoints, tags, metadata, version, transport = "auto" } = options;
  if (subsystem !== undefined) idOf("subsystem", subsystem);
  if (!["auto", "amqp", "http"].includes(transport)) throw invalid("transport", transport, "auto, amqp or http");
  const ttlMs = integer("ttlMs", options.ttlMs ?? limits.ttlMs.default, limits.ttlMs.min, limits.ttlMs.max);
  return {
    urls,
    id,
    token: options.token ?? environment.MUSTER_TOKEN,
    type,
    subsystem,
    registration: dropUndefined({ type, subsystem, endpoints, tags, metadata, version, ttlMs }),
    ttlMs,
    transport,
    cacheFile: cacheFileOf(options.cacheDirectory, urls, id, environment),
    validate: options.validate,
    health: options.health,
    connectTimeoutMs: integer("connectTimeoutMs", options.connectTimeoutMs ?? 30_000, 0, 3_600_000),
    prefetch: integer("prefetch", options.prefetch ?? 100, 1, 1_000),
    outbox: {
      messagesMax: integer("outbox.messagesMax", options.outbox?.messagesMax ?? 10_000, 1, 1_000_000),
      bytesMax: integer("outbox.bytesMax", options.outbox?.bytesMax ?? 64 * 1024 * 1024, 1_024, 2 ** 32),
    },
    logger: options.logger ?? silent,
  };
}

function urlsOf(given: string | readonly string[] | undefined): readonly string[] {
  const urls = (typeof given === "string" ? given.split(",") : (given ?? [])).map((url) => url.trim()).filter(Boolean);
  if (urls.length === 0) throw invalid("url", given, "the URL of a coordinator; it may also stand in MUSTER_URL");
  for (const url of urls) {
    if (!URL.canParse(url) || !["http:", "https:"].includes(new URL(url).protocol)) {
      throw invalid("url", url, "an http: or https: URL, with commas between several");
    }
  }
  return urls;
}

function idOf(name: string, value: unknown): string {
  if (typeof value === "string" && idPattern.test(value)) return value;
  throw invalid(name, value, `text that matches ${idPattern.source}`);
}

/** @throws MusterError `invalid-request` that names the option, what it was and what it may be. */
export function integer(name: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw invalid(name, value, `an integer in ${min}..${max}`);
}

function invalid(name: string, value: unknown, right: string): MusterError {
  return new MusterError("invalid-request", `${name} must be ${right}, got ${JSON.stringify(value)}`);
}

function dropUndefined(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

/** One file per component and system: two systems on one machine may know the same id. */
function cacheFileOf(
  directory: string | false | undefined,
  urls: readonly string[],
  id: string,
  environment: Record<string, string | undefined>,
): string | undefined {
  if (directory === false) return undefined;
  const system = createHash("sha256")
    .update([...urls].sort().join())
    .digest("hex")
    .slice(0, 8);
  const parent = directory ?? join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "muster");
  return join(parent, `${id}-${system}.json`);
}
