/** What Prometheus is told of the registry. */
import { Counter, Gauge, type Registry as Metrics } from "prom-client";
import type { ComponentDocument } from "../../config-db/generated/types.ts";

export class RegistryMetrics {
  readonly renewals: Counter;
  readonly events: Counter;

  constructor(metrics: Metrics, read: { all(): Iterable<ComponentDocument>; leases(): number }) {
    const registers = [metrics];
    new Gauge({
      name: "muster_components",
      help: "Components on record, by stored state.",
      labelNames: ["state"],
      registers,
      collect() {
        const counts: Record<string, number> = { up: 0, expired: 0, gone: 0 };
        for (const { state } of read.all()) counts[state] = (counts[state] ?? 0) + 1;
        for (const [state, count] of Object.entries(counts)) this.set({ state }, count);
      },
    });
    new Gauge({
      name: "muster_leases",
      help: "Leases that this coordinator judges; 0 when it does not lead.",
      registers,
      collect() {
        this.set(read.leases());
      },
    });
    this.renewals = new Counter({
      name: "muster_renewals_total",
      help: "Renewals taken, by HTTP and by message.",
      registers,
    });
    this.events = new Counter({
      name: "muster_registry_events_total",
      help: "What happened to components: up, changed, expired, gone, removed, unverified.",
      labelNames: ["kind"],
      registers,
    });
  }
}
