/** Who fits a discovery query: pure functions over records. `heard` says whether the record's site is heard from. */
import { createHash } from "node:crypto";
import type { ComponentDocument, ConfigStatus, Health } from "../../config-db/generated/types.ts";
import type { Roster, StoredComponent } from "./roster.ts";

export interface DiscoveryQuery {
  type?: string;
  subsystem?: string;
  site?: string;
  /** All of them. */
  tags?: string[];
  /** The stored state; `unverified` asks for those whose site is not heard, whatever their last known state. */
  state: "up" | "expired" | "gone" | "unverified" | "any";
  health?: Health["status"];
  /** Equality of strings, numbers and booleans, each as it reads in a URL. */
  metadata?: Record<string, string>;
}

/** A record as it is read: without what is the store's own, and without secrets. */
export interface ComponentRecord {
  id: string;
  type: string;
  subsystem?: string;
  site: string;
  state: ComponentDocument["state"] | "unverified";
  /** With `unverified`: what the record said when its site was last heard. */
  lastKnownState?: ComponentDocument["state"];
  endpoints: Record<string, string>;
  tags: string[];
  metadata: Record<string, unknown>;
  version?: string;
  ttlMs: number;
  lease?: "self";
  incarnation: number;
  registeredAt: string;
  changedAt: string;
  health?: Health;
  configStatus?: ConfigStatus;
  webhook?: { url: string };
}

export function recordOf(document: ComponentDocument, heard: boolean): ComponentRecord {
  const { id, type, subsystem, site, state, endpoints, tags, metadata, version } = document;
  const { ttlMs, lease, incarnation, registeredAt, changedAt, health, configStatus, webhook } = document;
  return {
    id,
    type,
    ...(subsystem === undefined ? {} : { subsystem }),
    site,
    ...(heard ? { state } : { state: "unverified" as const, lastKnownState: state }),
    endpoints: endpoints ?? {},
    tags: tags ?? [],
    metadata: metadata ?? {},
    ...(version === undefined ? {} : { version }),
    ttlMs,
    ...(lease === undefined ? {} : { lease }),
    incarnation,
    registeredAt,
    changedAt,
    ...(health === undefined ? {} : { health }),
    ...(configStatus === undefined ? {} : { configStatus }),
    ...(webhook === undefined ? {} : { webhook: { url: webhook.url } }),
  };
}

/** True when the record belongs in the query's answer. A component that reports no health is passing: it is alive. */
export function fits(query: DiscoveryQuery, document: ComponentDocument, heard: boolean): boolean {
  return (
    isAsked(query.type, document.type) &&
    isAsked(query.subsystem, document.subsystem) &&
    isAsked(query.site, document.site) &&
    isInState(query.state, document, heard) &&
    isAsked(query.health, document.health?.status ?? "passing") &&
    (query.tags ?? []).every((tag) => document.tags?.includes(tag) === true) &&
    Object.entries(query.metadata ?? {}).every(([key, value]) => readsAs(document.metadata?.[key]) === value)
  );
}

function isAsked(wanted: string | undefined, value: string | undefined): boolean {
  return wanted === undefined || wanted === value;
}

function isInState(wanted: DiscoveryQuery["state"], document: ComponentDocument, heard: boolean): boolean {
  if (wanted === "any") return true;
  return wanted === "unverified" ? !heard : document.state === wanted;
}

function readsAs(value: unknown): string | undefined {
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean"
    ? String(value)
    : undefined;
}

export interface Page {
  records: StoredComponent[];
  /** Absent on the last page. */
  cursor?: string;
  /** Of what the page says: the same at every coordinator that knows the same. */
  etag: string;
}

/**
 * One page of an answer, in id order. The cursor is the last id of the page, so that paging neither repeats nor leaves
 * out a component that was there throughout, whatever comes and goes meanwhile.
 */
export function discover(
  roster: Roster,
  query: DiscoveryQuery,
  page: { limit: number; cursor?: string | undefined },
  hears: (site: string) => boolean,
): Page {
  const records: StoredComponent[] = [];
  const hash = createHash("sha256");
  for (const record of roster.ordered({ type: query.type, after: page.cursor })) {
    const heard = hears(record.site);
    if (!fits(query, record, heard)) continue;
    if (records.length === page.limit) {
      hash.update("more");
      return { records, cursor: (records.at(-1) as StoredComponent).id, etag: digest(hash) };
    }
    records.push(record);
    hash.update(`${record.id}@${record._rev}${heard ? "" : "?"}\n`);
  }
  return { records, etag: digest(hash) };
}

function digest(hash: ReturnType<typeof createHash>): string {
  return hash.digest("base64url").slice(0, 22);
}
