/** The demo: three components of a system that does not exist, on a platform that does. Run by `npm start`. */
import { join } from "node:path";
import { stopSignal, untilAborted } from "../stop-signals.ts";
import type { SupervisionEvent } from "../supervise.ts";
import { Cast } from "./cast.ts";
import { Operator } from "./operator.ts";
import { roles, tellStory } from "./story.ts";

const { MUSTER_URL = "http://127.0.0.1:8080", MUSTER_TOKEN, MUSTER_DATA_DIR = ".muster" } = process.env;

const stopping = await stopSignal();
const say = (line: string) => {
  if (!stopping.aborted) console.log(line);
};
const operator = new Operator({ urls: MUSTER_URL.split(","), token: MUSTER_TOKEN, stopping });
const complaints = new Map<string, string>();
const cast = new Cast({
  roles,
  env: { ...process.env, MUSTER_URL, DEMO_CACHE_DIRECTORY: join(MUSTER_DATA_DIR, "demo") },
  onLine: (id, line) => {
    // Components say nothing unless they fail; of a stack the first line is enough here.
    if (/^(Uncaught )?\w*Error\b/.test(line)) complaints.set(id, line);
  },
  onEvent: (event) => tellMishap(event),
});

const died = new Set<string>();
function tellMishap(event: SupervisionEvent): void {
  if (event.type === "died") {
    died.add(event.service);
    const why = complaints.get(event.service);
    complaints.delete(event.service);
    say(`    ${event.service} ended (${event.how}${why === undefined ? "" : `: ${why}`}) and is started again`);
  } else if (event.type === "failed") {
    say(`    ${event.service} could not be started: ${event.error.message}`);
  } else if (event.type === "ready" && died.delete(event.service)) {
    say(`    ${event.service} runs again (process ${event.pid})`);
  }
}

try {
  await operator.start();
  await tellStory({ operator, cast, say });
} catch (error) {
  say(`    The story broke off: ${(error as Error).message}. Its components go on.`);
}
await untilAborted(stopping);
await cast.close();
