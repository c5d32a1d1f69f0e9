/** `/livez`, `/readyz` and `/metrics`: for supervisors, load balancers and Prometheus. */
import type { Registry as Metrics } from "prom-client";
import type { Route } from "./route.ts";

/** One part that the coordinator needs: `ok`, or what is wrong with it. */
export type Readiness = Record<string, "ok" | string>;

export function healthRoutes({ readiness, metrics }: { readiness(): Readiness; metrics: Metrics }): Route[] {
  return [
    {
      method: "get",
      path: "/livez",
      summary: "200 while the process serves at all",
      answers: { 200: { description: "alive", schema: { type: "object", properties: { live: { const: true } } } } },
      handle: () => ({ status: 200, body: { live: true } }),
    },
    {
      method: "get",
      path: "/readyz",
      summary: "200 when the store and the broker can be reached; 503 says which cannot",
      answers: {
        200: { description: "ready", schema: { type: "object" } },
        503: { description: "not ready", schema: { type: "object" } },
      },
      handle: () => {
        const parts = readiness();
        const ready = Object.values(parts).every((part) => part === "ok");
        return { status: ready ? 200 : 503, headers: ready ? {} : { "retry-after": "2" }, body: { ready, ...parts } };
      },
    },
    {
      method: "get",
      path: "/metrics",
      summary: "Prometheus metrics",
      answers: { 200: { description: "the text format", media: "text/plain" } },
      handle: async () => ({
        status: 200,
        headers: { "content-type": metrics.contentType },
        body: Buffer.from(await metrics.metrics()),
      }),
    },
  ];
}
