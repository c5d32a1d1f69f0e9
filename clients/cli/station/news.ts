/** What happened at a station between two looks at it: peers that come and go, what came in, what collided, who applied. Pure. */
import type { StatusCounts } from "../commands/config-status.ts";
import type { Conflict } from "../commands/conflicts.ts";
import type { Site } from "../commands/sites.ts";

export interface Look {
  sites: Site[];
  /** Without their settings. */
  layers: { layer: string; version: number; changedBy: string; changedAt: string; site: string }[];
  conflicts: Conflict[];
  status: StatusCounts;
}

/** How a peer stands, as it was told: "catching up" is what follows "away", and every write would be it for a moment. */
export type Standing = "away" | "catching up" | "in sync";

/** What has been told so far: the starting point for what is new. */
export interface Told {
  standings: Record<string, Standing>;
  /** Of peers that are away, by name. */
  reasons: Record<string, string>;
  /** Undefined at a station's very first start, until it has all that the site has: all of that is no news. */
  layers: Look["layers"] | undefined;
  conflicts: Conflict[];
  /** Undefined at the start. */
  status: StatusCounts | undefined;
}

export type News =
  | { event: "peer"; data: { name: string; standing: Standing; error?: string } }
  | { event: "layer"; data: Look["layers"][number] }
  | { event: "conflict"; data: Conflict }
  | { event: "resolved"; data: { id: string; layer?: string; pointer: string } }
  | { event: "status"; data: StatusCounts };

/** @param layers as they were when the station last ran, so that it tells what came in since; conflicts are told again. */
export function atStart(layers?: Look["layers"]): Told {
  return { standings: {}, reasons: {}, layers, conflicts: [], status: undefined };
}

/** @param self the station's name: what it wrote itself is no news to who sits at it */
export function newsSince(told: Told, look: Look, self: string): { news: News[]; told: Told } {
  const peers = look.sites.filter(({ self: isSelf, peer }) => !isSelf && peer !== false);
  const standings = Object.fromEntries(peers.map((site) => [site.name, standingOf(told.standings[site.name], site)]));
  const reasons = Object.fromEntries(
    peers.map(({ name, state, lastError = "" }) => [name, state === "up" ? "" : lastError]),
  );
  const changed = peers.filter(
    ({ name }) => told.standings[name] !== standings[name] || told.reasons[name] !== reasons[name],
  );
  const news: News[] = [
    ...changed.map(({ name }): News => {
      const error = reasons[name] ? { error: reasons[name] } : {};
      return { event: "peer", data: { name, standing: standings[name] as Standing, ...error } };
    }),
    ...newFromElsewhere(told.layers, look.layers, self).map((data): News => ({ event: "layer", data })),
    ...without(look.conflicts, told.conflicts).map((data): News => ({ event: "conflict", data })),
    ...without(told.conflicts, look.conflicts).map(({ id, layer, pointer }): News => {
      return { event: "resolved", data: { id, pointer, ...(layer === undefined ? {} : { layer }) } };
    }),
  ];
  const isOtherStatus = told.status !== undefined && JSON.stringify(told.status) !== JSON.stringify(look.status);
  if (isOtherStatus) news.push({ event: "status", data: look.status });
  const { conflicts, status } = look;
  const isComplete = peers.some(({ name }) => standings[name] === "in sync");
  const layers = told.layers !== undefined || isComplete ? look.layers : undefined;
  return { news, told: { standings, reasons, layers, conflicts, status } };
}

function standingOf(before: Standing | undefined, { state, lag }: Site): Standing {
  if (state !== "up") return "away";
  const isInSync = lag === undefined || (lag.changes === 0 && lag.ms === 0);
  return isInSync || before === "in sync" ? "in sync" : "catching up";
}

function newFromElsewhere(before: Look["layers"] | undefined, now: Look["layers"], self: string): Look["layers"] {
  if (before === undefined) return [];
  return now.filter(({ layer, version, changedAt, site }) => {
    const known = before.find((one) => one.layer === layer);
    const isKnown = known?.version === version && known.changedAt === changedAt && known.site === site;
    return !isKnown && site !== self;
  });
}

function without(conflicts: Conflict[], others: Conflict[]): Conflict[] {
  return conflicts.filter(({ id }) => !others.some((other) => other.id === id));
}
