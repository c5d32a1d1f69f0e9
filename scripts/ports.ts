import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/** True when nothing listens on `port` of `host` and this process may. */
export async function isPortFree(port: number, host = "127.0.0.1"): Promise<boolean> {
  const server = createServer();
  return await new Promise<boolean>((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/**
 * A free port of the loopback interface, below the range from which systems take the ports of outgoing connections:
 * one that is kept for later must not be lost to a connection meanwhile.
 */
export async function findFreePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = randomInt(15_000, 32_000);
    if (await isPortFree(port)) return port;
  }
  throw new Error("no free port between 15000 and 32000 on 127.0.0.1 in 100 tries");
}
