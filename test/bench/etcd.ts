/** An etcd of its own for a row, where one is installed (Debian: `etcd-server`). */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFreePort } from "../../scripts/ports.ts";
import { eventually } from "../support/eventually.ts";

export interface Etcd {
  url: string;
  close(): Promise<void>;
}

/** Undefined where none is installed. */
export async function startEtcd(): Promise<Etcd | undefined> {
  if (spawnSync("etcd", ["--version"]).error !== undefined) return undefined;
  const directory = await mkdtemp(join(tmpdir(), "muster-bench-etcd-"));
  const [url, peerUrl] = [`http://127.0.0.1:${await findFreePort()}`, `http://127.0.0.1:${await findFreePort()}`];
  const args = ["--data-dir", directory, "--listen-client-urls", url, "--advertise-client-urls", url];
  const peers = ["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl];
  const etcd = spawn("etcd", [...args, ...peers, "--initial-cluster", `default=${peerUrl}`], { stdio: "ignore" });
  await eventually(async () => {
    if (!(await fetch(`${url}/health`)).ok) throw new Error("etcd is not healthy yet");
  });
  return {
    url,
    close: async () => {
      const gone = once(etcd, "exit");
      etcd.kill("SIGKILL");
      await gone;
      await rm(directory, { recursive: true, force: true });
    },
  };
}
