/** What a registration does to the record that stands there: pure, time as an argument. */
import { isDeepStrictEqual } from "node:util";
import { MusterError } from "../../config-db/errors.ts";
import type { ComponentDocument, Registration } from "../../config-db/generated/types.ts";
import { limits } from "../../config-db/limits.ts";
import { documentId } from "../../config-db/names.ts";
import { nextVersion } from "../../config-db/revision.ts";
import { jsonErrors } from "../json-rules.ts";

export interface RegistrationContext {
  site: string;
  /** The epoch of the site's leader as far as this coordinator knows. */
  epoch: number;
  /** RFC 3339 */
  at: string;
  /** The last incarnation of a record that was removed: a process of before the removal may still live. */
  removed?: number | undefined;
}

const rules = { keyError: () => undefined, depthMax: limits.settingsDepth, bytesMax: limits.requestBytes };

/**
 * Refuses what the store would refuse, or not keep as it is: `__proto__`, numbers beyond a double, metadata nested so deep
 * that its record is too deep.
 * @throws MusterError `invalid-request`
 */
export function checkRegistration(registration: Registration): void {
  const errors = jsonErrors(registration, rules);
  if (errors.length === 0) return;
  const told = errors.slice(0, 3).map(({ pointer, message }) => `${pointer.slice(0, 200)} ${message}`);
  throw new MusterError("invalid-request", told.join("; "), { errors });
}

/** The fields that the component says of itself. */
const declared = [
  "type",
  "subsystem",
  "endpoints",
  "tags",
  "metadata",
  "version",
  "ttlMs",
  "instance",
  "webhook",
] as const satisfies (keyof Registration)[];

/**
 * The record after `registration`, or undefined when it says nothing new: the same process with the same words.
 *
 * `incarnation` rises with every new process: when `instance` is another one, or when the component was not up. A new
 * process has reported neither health nor configuration yet, so what the former reported goes. It rises as well when the
 * process comes from another site: that one may be cut off and write of the former registration (sites/registry-resolve.ts).
 */
export function register(
  id: string,
  registration: Registration,
  current: ComponentDocument | undefined,
  { site, epoch, at, removed = 0 }: RegistrationContext,
): ComponentDocument | undefined {
  const says = words({ ttlMs: limits.ttlMs.default, ...registration });
  const reported = current !== undefined && current.incarnation > removed && isSameProcess(registration, current);
  const continues = reported && current.site === site;
  if (continues && current.lease === undefined && isDeepStrictEqual(words(current), says)) {
    return undefined;
  }
  return {
    _id: documentId.component(id),
    ...(current?._rev === undefined ? {} : { _rev: current._rev }),
    kind: "component",
    schemaVersion: 1,
    id,
    site,
    ...says,
    state: "up",
    incarnation: continues ? current.incarnation : nextVersion(Math.max(current?.incarnation ?? 0, removed)),
    registeredAt: continues ? current.registeredAt : at,
    changedAt: at,
    epoch,
    ...(reported && current.health !== undefined ? { health: current.health } : {}),
    ...(reported && current.configStatus !== undefined ? { configStatus: current.configStatus } : {}),
  };
}

/** True when the process that holds the record is the one that registers. */
export function isSameProcess(registration: Registration, current: ComponentDocument): boolean {
  return current.state === "up" && current.instance === registration.instance;
}

function words(from: Registration & { ttlMs: number }): Registration & { ttlMs: number } {
  const said: Record<string, unknown> = {};
  for (const name of declared) if (from[name] !== undefined) said[name] = from[name];
  return said as unknown as Registration & { ttlMs: number };
}

/** The record of a component whose state changes. A new process is another matter: `register`. */
export function withState(
  current: ComponentDocument,
  state: ComponentDocument["state"],
  { epoch, at }: { epoch: number; at: string },
): ComponentDocument {
  return { ...current, state, changedAt: at, epoch };
}

/**
 * What is left of a removed component: the fields that replication filters look at, nothing of what it said. Written by
 * PUT, because `DELETE` would leave no fields and a filtered replication would never hear of the removal. It says that the
 * removal is under way, until `removed`.
 */
export function tombstone(current: ComponentDocument, { epoch, at }: { epoch: number; at: string }): ComponentDocument {
  const { _id, _rev, kind, schemaVersion, id, type, subsystem, site, ttlMs, state, incarnation, registeredAt } =
    current;
  return {
    _id,
    ...(_rev === undefined ? {} : { _rev }),
    _deleted: true,
    removing: true,
    kind,
    schemaVersion,
    id,
    type,
    ...(subsystem === undefined ? {} : { subsystem }),
    site,
    ttlMs,
    state: state === "up" ? "gone" : state,
    incarnation,
    registeredAt,
    changedAt: at,
    epoch,
  };
}

/** The tombstone of a component whose queues are gone too. */
export function removed({ removing: _, ...tombstone }: ComponentDocument): ComponentDocument {
  return tombstone;
}
