/** A NATS server of its own for a row, with JetStream on disk, where one is installed (Debian: `nats-server`). */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, JSONCodec } from "nats";
import { findFreePort } from "../../scripts/ports.ts";
import { eventually } from "../support/eventually.ts";

export interface Nats {
  /** Request and reply, by two connections. */
  ask(body: unknown): Promise<unknown>;
  /** Published to a stream on disk; resolves when that has it. */
  send(body: unknown): Promise<unknown>;
  /** Empties the stream. */
  purge(): Promise<unknown>;
  close(): Promise<void>;
}

/** Undefined where none is installed. */
export async function startNats(): Promise<Nats | undefined> {
  if (spawnSync("nats-server", ["--version"]).error !== undefined) return undefined;
  const directory = await mkdtemp(join(tmpdir(), "muster-bench-nats-"));
  const port = await findFreePort();
  const args = ["--addr", "127.0.0.1", "--port", String(port), "--jetstream", "--store_dir", directory];
  const server = spawn("nats-server", args, { stdio: "ignore" });
  const [asker, answerer] = await eventually(() =>
    Promise.all([1, 2].map(() => connect({ servers: `127.0.0.1:${port}` }))),
  );
  if (asker === undefined || answerer === undefined) throw new Error("no connection");
  const json = JSONCodec();
  answerer.subscribe("read", {
    callback: (_error, message) => message.respond(json.encode(json.decode(message.data))),
  });
  const streams = await asker.jetstreamManager();
  await streams.streams.add({ name: "commands", subjects: ["commands.>"] });
  const stream = asker.jetstream();
  await answerer.flush();
  return {
    ask: async (body) => json.decode((await asker.request("read", json.encode(body))).data),
    send: (body) => stream.publish("commands.one", json.encode(body)),
    purge: () => streams.streams.purge("commands"),
    close: async () => {
      await Promise.all([asker.close(), answerer.close()]);
      const gone = once(server, "exit");
      server.kill("SIGKILL");
      await gone;
      await rm(directory, { recursive: true, force: true });
    },
  };
}
