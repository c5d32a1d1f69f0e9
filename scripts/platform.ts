import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Settings, variableOf } from "../coordinator/settings.ts";
import { startBroker } from "./broker.ts";
import type { Claim } from "./claim.ts";
import { findFreePort, isPortFree } from "./ports.ts";
import { identifyProcess } from "./process-identity.ts";
import { processService } from "./process-service.ts";
import { SetupError } from "./setup-error.ts";
import type { Service } from "./supervise.ts";

/** Where this run of the platform serves and keeps things: the settings with every free choice made. */
export interface Site {
  settings: Settings;
  dataDir: string;
  httpPort: number;
  couchdbPort: number;
  amqpPort: number;
  /** The bridge as this machine reaches it. */
  bridgeUrl: string;
}

export interface PlatformOptions {
  site: Site;
  /** The flags as they were given: the coordinator reads them itself. */
  argv: string[];
  demo: boolean;
  claim: Claim;
  progress: (service: string, line: string) => void;
  onLine: (service: string, line: string) => void;
}

const root = resolve(import.meta.dirname, "..");

/** @throws SetupError when a port that the coordinator needs is taken. */
export async function chooseSite(settings: Settings): Promise<Site> {
  const httpPort = await choosePort(settings.httpPort, settings.httpHost, "the bridge", "http-port");
  const couchdbPort = settings.couchdbUrl
    ? settings.couchdbPort
    : await choosePort(settings.couchdbPort, settings.couchdbHost, "the config database", "couchdb-port");
  const amqpPort = settings.amqpPort === 0 ? await findFreePort() : settings.amqpPort;
  const everywhere = ["0.0.0.0", "::"].includes(settings.httpHost);
  const host = everywhere
    ? "127.0.0.1"
    : settings.httpHost.includes(":")
      ? `[${settings.httpHost}]`
      : settings.httpHost;
  const dataDir = resolve(settings.dataDir);
  return { settings, dataDir, httpPort, couchdbPort, amqpPort, bridgeUrl: `http://${host}:${httpPort}` };
}

/** A port of 0 is chosen here and not by the coordinator, so that it stays the same when that is started again. */
async function choosePort(port: number, host: string, what: string, flag: string): Promise<number> {
  if (port === 0) return await findFreePort();
  if (await isPortFree(port, host)) return port;
  throw new SetupError(
    `Port ${port} of ${host} is taken, and ${what} needs it. Choose another with --${flag} or ${variableOf(flag)}.`,
  );
}

/** The services of a site in the order in which they need each other. */
export function platformServices(options: PlatformOptions): Service[] {
  const { site } = options;
  const broker = { url: site.settings.amqpUrl, managementUrl: site.settings.amqpManagementUrl };
  const services: Service[] = [];
  if (broker.url === undefined) {
    services.push({
      name: "broker",
      start: async (signal) => {
        const started = await startBroker({
          directory: join(site.dataDir, "broker"),
          port: site.amqpPort,
          progress: (line) => options.progress("broker", line),
          signal,
        });
        Object.assign(broker, { url: started.url, managementUrl: started.managementUrl });
        return started;
      },
    });
  }
  services.push(noted(options.claim, coordinator(options, broker)));
  if (options.demo && existsSync(join(root, demoEntry))) services.push(noted(options.claim, demo(options)));
  return services;
}

/** The service with its process written down, so that the next start can end it should this one be killed. */
function noted(claim: Claim, service: Service): Service {
  return {
    name: service.name,
    start: async (signal) => {
      const running = await service.start(signal);
      const identity = await identifyProcess(running.pid);
      if (identity) await claim.note(service.name, identity);
      return running;
    },
  };
}

const demoEntry = "scripts/demo/main.ts";

function coordinator(
  options: PlatformOptions,
  broker: { url: string | undefined; managementUrl: string | undefined },
): Service {
  const { site, argv } = options;
  // A later flag wins. Addresses with passwords go by environment: others can read a command line.
  const chosen = [
    `--data-dir=${site.dataDir}`,
    `--http-port=${site.httpPort}`,
    ...(site.settings.couchdbUrl ? [] : [`--couchdb-port=${site.couchdbPort}`]),
  ];
  return {
    name: "coordinator",
    start: async (signal) =>
      await processService({
        name: "coordinator",
        ...typeScript("coordinator/main.ts", [...argv, ...chosen]),
        env: {
          ...process.env,
          ...(broker.url !== undefined && { [variableOf("amqp-url")]: broker.url }),
          ...(broker.managementUrl !== undefined && { [variableOf("amqp-management-url")]: broker.managementUrl }),
        },
        isReady: async () => await answersOk(`${site.bridgeUrl}/readyz`),
        onLine: (line) => options.onLine("coordinator", line),
      }).start(signal),
  };
}

function demo(options: PlatformOptions): Service {
  const { operatorToken } = options.site.settings;
  return processService({
    name: "demo",
    ...typeScript(demoEntry, []),
    env: {
      ...process.env,
      MUSTER_URL: options.site.bridgeUrl,
      MUSTER_DATA_DIR: options.site.dataDir,
      ...(operatorToken !== undefined && { MUSTER_TOKEN: operatorToken }),
    },
    onLine: (line) => options.onLine("demo", line),
  });
}

function typeScript(entry: string, args: string[]) {
  return {
    command: process.execPath,
    args: ["--enable-source-maps", "--import", "tsx", join(root, entry), ...args],
    cwd: root,
  };
}

async function answersOk(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}
