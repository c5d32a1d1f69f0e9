/** Watches a running station and tells what happens: the thin side of news.ts. */
import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { countsText, type StatusCounts } from "../commands/config-status.ts";
import { placeOf, valueText } from "../commands/conflicts.ts";
import type { Session } from "../session.ts";
import { plain, type Style } from "../style.ts";
import { moment } from "../table.ts";
import { atStart, type Look, type News, newsSince, type Standing } from "./news.ts";
import { readSeen, rememberSeen } from "./record.ts";

/** It looks at its own machine, where four small answers cost nothing, and whoever reads along wants it soon. */
const lookEveryMs = 1_000;

/** Until Ctrl-C. @param session of the station itself */
export async function followStation(session: Session, self: string, dataDir: string): Promise<never> {
  const { signal } = session.terminal;
  let told = atStart(await readSeen(dataDir));
  for (;;) {
    // First of all: at its start a station has not looked at its peers yet.
    await delay(lookEveryMs, undefined, { signal });
    const since = newsSince(told, await look(session), self);
    for (const { event, data } of since.news) {
      const at = moment(new Date().toISOString());
      const news = { event, data } as News;
      await session.printEvent(news, (style) => `${style.dim(at)}  ${newsText(news, style)}`);
    }
    const { layers } = since.told;
    if (layers !== undefined && !isDeepStrictEqual(layers, told.layers)) await rememberSeen(dataDir, layers);
    told = since.told;
  }
}

async function look({ bridge }: Session): Promise<Look> {
  const ask = async <Body>(path: string) => (await bridge.ask<Body>({ path })).body;
  const [{ sites }, { layers }, { conflicts }, { total, applied, rejected, pending }] = await Promise.all([
    ask<Pick<Look, "sites">>("/v1/sites"),
    ask<Pick<Look, "layers">>("/v1/config/layers?limit=1000"),
    ask<Pick<Look, "conflicts">>("/v1/conflicts"),
    ask<StatusCounts>("/v1/config/status"),
  ]);
  return { sites, layers, conflicts, status: { total, applied, rejected, pending } };
}

function newsText(news: News, style: Style): string {
  switch (news.event) {
    case "peer":
      return peerText(news.data, style);
    case "layer": {
      const { layer, version, changedBy, site } = news.data;
      return `${style.bold(plain(layer))} is at version ${version}, by ${plain(changedBy)} at ${plain(site)}`;
    }
    case "conflict": {
      const sides = news.data.candidates.map(
        (side) => `${valueText(side)} (${plain(side.site)}${side.live ? ", stands" : ""})`,
      );
      const where = style.bold(placeOf(news.data));
      return `${style.yellow("conflict")} at ${where}: ${sides.join(" against ")}; muster conflicts show ${news.data.id}`;
    }
    case "resolved":
      return `conflict at ${style.bold(placeOf(news.data))} is resolved`;
    case "status":
      return countsText(news.data, style);
  }
}

function peerText(
  { name, standing, error }: { name: string; standing: Standing; error?: string },
  style: Style,
): string {
  const who = style.bold(plain(name));
  if (standing !== "away") return `${who} is ${style.green("up")}, ${standing}`;
  return `${who} is ${style.yellow("away")}${error === undefined ? "" : `: ${plain(error)}`}`;
}
