/** The site that the examples of the command line speak of: three collectors that answer, and things to look at. */
import { randomBytes } from "node:crypto";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect } from "chai";
import { connect } from "../../clients/typescript/src/index.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { conflictDocument } from "../../coordinator/sites/conflict.ts";
import type { Vhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

export interface World {
  coordinator: RunningCoordinator;
  /** Where the files are that examples name, and a `muster` that a shell finds. */
  directory: string;
  env: Record<string, string | undefined>;
  /** Puts back what examples change, so that each can run by itself. */
  restore(): Promise<void>;
  close(): Promise<void>;
}

const root = resolve(import.meta.dirname, "../..");

const collectorSettings = { samplingIntervalMs: 1000, retry: { maxMs: 1000 } };
const collectorSchema = {
  type: "object",
  properties: {
    samplingIntervalMs: { type: "integer", minimum: 100, description: "Milliseconds between two samples." },
    retry: { type: "object", properties: { maxMs: { type: "integer", default: 1000 } } },
    labels: { type: "array", items: { type: "string" } },
  },
};

const files: Record<string, string> = {
  "settings.json": JSON.stringify({ samplingIntervalMs: 750 }),
  "collector.schema.json": JSON.stringify(collectorSchema),
  "body.json": JSON.stringify({ offset: 0.5 }),
  "rules.xml": "<rules/>\n",
  "model.bin": "\u0000\u0001",
  "password.txt": "hunter2\n",
};

export async function startWorld(vhost: Vhost): Promise<World> {
  const coordinator = await startCoordinator({
    amqpUrl: vhost.url,
    site: "home",
    args: ["--secret-key", randomBytes(32).toString("base64"), "--amqp-management-url", vhost.managementUrl],
  });
  const call = async (method: string, path: string, body?: unknown) => {
    const answer = await coordinator.call(method, path, body);
    expect(answer.status, `${method} ${path}: ${JSON.stringify(answer.body)}`).to.be.below(400);
    return answer.body;
  };
  await call("PUT", "/v1/config/layers/type:collector", { settings: collectorSettings, note: "first" });
  await call("PUT", "/v1/config/schemas/collector", collectorSchema);
  const components = await Promise.all(
    [1, 2, 3].map(async (number) => {
      const component = await connect({
        url: coordinator.url,
        id: `collector-${number}`,
        type: "collector",
        subsystem: "heating",
        tags: number === 1 ? ["indoor", "canary"] : ["indoor"],
        metadata: { floor: 3 },
        cacheDirectory: false,
      });
      component.handle("recalibrate", () => undefined);
      component.handle("flush", () => undefined);
      component.handle("reading", () => ({ celsius: 21.5 }));
      return component;
    }),
  );

  const directory = await mkdtemp(join(tmpdir(), "muster-cli-world-"));
  for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text);
  const program = (name: string, script: string) =>
    writeFile(join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  await program("muster", `exec ${process.execPath} ${root}/clients/cli/muster.mjs "$@"`);
  // Both editors of the examples: one change, saved.
  await program("code", `for file; do :; done\nsed -i '1s/{/{"edited": true,/; s/,}/}/' "$file"`);
  await chmod(join(directory, "code"), 0o755);

  const conflicts = await conflictStore(coordinator);
  const letters = async () => (await call("GET", "/v1/dead-letters")).deadLetters as unknown[];

  const restore = async () => {
    for (const id of ["probe-1", "probe-2"])
      await call("PUT", `/v1/components/${id}`, { type: "probe", ttlMs: 3_600_000 });
    await call("PUT", "/v1/config/layers/platform", { settings: {} });
    await call("PUT", "/v1/config/layers/type:collector", { settings: collectorSettings });
    await call("PUT", "/v1/config/layers/component:collector-1", { settings: { retry: { maxMs: 1500 } } });
    await call("PUT", "/v1/config/schemas/probe", {});
    const content = await fetch(`${coordinator.url}/v1/config/layers/type:collector/content/rules.xml`, {
      method: "PUT",
      headers: { "content-type": "application/xml" },
      body: files["rules.xml"] ?? "",
    });
    expect(content.ok).to.equal(true);
    await call("PUT", "/v1/config/layers/type:collector/candidate", {
      settings: { ...collectorSettings, samplingIntervalMs: 500 },
      selector: { tags: ["canary"] },
    });
    await call("PUT", "/v1/config/secrets/db-password", { value: "hunter2" });
    await call("POST", "/v1/sites", { name: "south", couchdbUrl: "http://127.0.0.1:1" });
    await conflicts();
    // One that has expired before it could be handled, unless that took less than its millisecond.
    await eventually(
      async () => {
        if ((await letters()).length > 0) return;
        await call("POST", "/v1/commands", { to: { component: "collector-1" }, name: "recalibrate", deadlineMs: 1 });
        await eventually(async () => expect(await letters()).to.not.be.empty, { timeoutMs: 1_000 });
      },
      { timeoutMs: 20_000 },
    );
  };

  return {
    coordinator,
    directory,
    env: {
      PATH: `${directory}:${process.env.PATH}`,
      HOME: directory,
      USER: "anna",
      EDITOR: "code",
      MUSTER_URL: coordinator.url,
    },
    restore,
    close: async () => {
      for (const component of components) await component.close();
      await coordinator.close();
      await rm(directory, { recursive: true });
    },
  };
}

/** Makes two open conflicts, as sites that were apart leave them. */
async function conflictStore(coordinator: RunningCoordinator): Promise<() => Promise<void>> {
  const { sites } = (await coordinator.call("GET", "/v1/sites")).body as {
    sites: { self: boolean; couchdbUrl: string }[];
  };
  const store = new Store(sites.find(({ self }) => self)?.couchdbUrl ?? "");
  const database = store.database(databases.config);
  const side = (site: string, value: number) => ({
    rev: `2-${randomBytes(16).toString("hex")}`,
    version: 2,
    site,
    changedBy: "anna",
    changedAt: "2026-11-22T02:00:00.000Z",
    value,
  });
  return async () => {
    const places = ["/samplingIntervalMs", "/retry/maxMs"];
    const found = places.map((pointer) => ({
      part: "settings" as const,
      pointer,
      base: { value: 500 },
      candidates: [side("home", 1000), side("south", 250)],
    }));
    await database.bulk(
      found.map((one) => conflictDocument("layer:type:collector", one)),
      { newEdits: false },
    );
    await eventually(async () => {
      const { conflicts } = (await coordinator.call("GET", "/v1/conflicts")).body as { conflicts: unknown[] };
      expect(conflicts).to.have.length(2);
    });
  };
}
