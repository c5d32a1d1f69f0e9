/**
 * A monitoring data collector, as its author would write it: it measures every `samplingIntervalMs` of its configuration
 * and sends the figures as events. MUSTER_URL and MUSTER_COMPONENT_ID are all that it is given.
 */
import { connect } from "../../clients/typescript/src/index.ts";
import { type Figures, Meter } from "./measure.ts";

interface Settings {
  samplingIntervalMs: number;
}

function validate({ samplingIntervalMs }: Record<string, unknown>): Settings {
  if (Number.isInteger(samplingIntervalMs) && Number(samplingIntervalMs) >= 100) {
    return { samplingIntervalMs: Number(samplingIntervalMs) };
  }
  throw new Error(`samplingIntervalMs must be an integer of at least 100, got ${JSON.stringify(samplingIntervalMs)}`);
}

const meter = new Meter();
meter.start();
let latest: Figures = meter.read();
let peakCpuPercent = 0;
let sampling: NodeJS.Timeout | undefined;

const cacheDirectory = process.env.DEMO_CACHE_DIRECTORY;
const connecting = connect<Settings>({
  type: "collector",
  ttlMs: 5_000,
  tags: ["demo"],
  validate,
  ...(cacheDirectory !== undefined && { cacheDirectory }),
});
// From the first moment on: one that is told to end while it connects has registered, and must say that it leaves.
for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => void leave());
const component = await connecting;

// Events are news: where nobody can take one now, the next tells more than this one would late.
const tell = (name: string, body: unknown) =>
  component.event(name, body, { sendTimeoutMs: 5_000 }).catch(() => undefined);

function sample(): void {
  latest = meter.read();
  peakCpuPercent = Math.max(peakCpuPercent, latest.cpuPercent);
  void tell("figures", latest);
}

component.handle("reset-peaks", async ({ id }) => {
  peakCpuPercent = 0;
  await tell("handled", { id, name: "reset-peaks" });
});
component.handle("announce", async ({ id }) => {
  await tell("handled", { id, name: "announce" });
});
component.handle("figures", () => ({ ...latest, peakCpuPercent }));

await component.config.onChange(({ samplingIntervalMs }, { etag }) => {
  clearInterval(sampling);
  sampling = setInterval(sample, samplingIntervalMs);
  void tell("configured", { samplingIntervalMs, etag });
});

async function leave(): Promise<void> {
  clearInterval(sampling);
  meter.stop();
  await (await connecting).close();
  process.exit();
}
component.onState((state) => {
  // A newer process has this id and does the work now.
  if (state === "superseded") void leave();
});
