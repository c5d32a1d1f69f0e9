import { join, relative } from "node:path";
import type { Site } from "./platform.ts";
import type { SupervisionEvent } from "./supervise.ts";

export const logFileOf = (site: Site) => join(site.dataDir, "log", "coordinator.log");

/** What happened to a service, in the words of someone who watches the start. */
export function eventLine(event: SupervisionEvent): string {
  switch (event.type) {
    case "starting":
      return "starting";
    case "ready":
      return `ready after ${seconds(event.afterMs)} (process ${event.pid})`;
    case "died":
      return `ended (${event.how}); starts again in ${seconds(event.restartInMs)}`;
    case "failed":
      return `could not be started again: ${event.error.message}`;
    case "stopped":
      return "stopped";
  }
}

/** What the terminal shows of a line of the coordinator's log: warnings, errors, their ends, and what is no log line at all. */
export function logLine(line: string): string | undefined {
  const entry = parseLogEntry(line);
  if (entry === undefined) return `coordinator: ${line}`;
  if (entry.recovered === true) return `coordinator: ${entry.msg}`;
  if (entry.level < 40) return undefined;
  const reason = entry.err?.message;
  const shown = reason === undefined || entry.msg?.includes(reason) ? entry.msg : `${entry.msg}: ${reason}`;
  return `coordinator: ${entry.level < 50 ? "warning" : "error"}: ${shown}`;
}

interface LogEntry {
  level: number;
  msg?: string;
  /** What a warning or error before it told of is over. */
  recovered?: boolean;
  err?: { message?: string };
}

function parseLogEntry(line: string): LogEntry | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const entry = JSON.parse(line) as Partial<LogEntry>;
    return typeof entry.level === "number" ? (entry as LogEntry) : undefined;
  } catch {
    return undefined;
  }
}

/** What someone can do with a site that has just come up. */
export function welcome(site: Site, tookSeconds: number): string {
  const { bridgeUrl, settings } = site;
  const token =
    settings.auth === "token" ? ` -H "authorization: Bearer $(cat ${shown(site.dataDir)}/operator-token)"` : "";
  const curl = `curl -s${token}`;
  return `
Muster is up at ${bridgeUrl} after ${tookSeconds.toFixed(1)} s.
  site ${settings.site} · data in ${shown(site.dataDir)} · log in ${shown(logFileOf(site))} · API pages at ${bridgeUrl}/docs
Try next, in another terminal:
  ${curl} ${bridgeUrl}/v1/components
  ${curl} -X PUT ${bridgeUrl}/v1/config/layers/platform -H 'content-type: application/json' -d '{"settings":{"greeting":"hello"}}'
  ${curl} '${bridgeUrl}/v1/components/my-first/config?explain=true'
Ctrl-C stops all of it; the next start finds the data again.
`;
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;

function shown(path: string): string {
  const fromHere = relative(process.cwd(), path);
  return fromHere.startsWith("..") ? path : fromHere;
}
