/** What `/metrics` tells of messaging: looked up when it is asked for. */
import { Gauge, type Registry } from "prom-client";

export interface MessagingFigures {
  connected: boolean;
  unconfirmed: number;
  provisioningBacklog: number;
  trackedCommands: number;
  deadLetters: number | undefined;
  strayOutcomes: number;
  malformedRenewals: number;
}

const described: Record<keyof MessagingFigures, [name: string, help: string]> = {
  connected: ["muster_broker_connected", "1 while both connections to the broker stand."],
  unconfirmed: ["muster_messages_unconfirmed", "Messages handed to the broker and not confirmed yet."],
  provisioningBacklog: ["muster_provisioning_backlog", "Components whose queues wait to be declared."],
  trackedCommands: ["muster_commands_tracked", "Commands of which a record is kept."],
  deadLetters: ["muster_dead_letters", "Dead letters in the store; known once the first came."],
  strayOutcomes: ["muster_outcomes_stray", "Outcomes of commands that are not kept, and messages that were none."],
  malformedRenewals: ["muster_renewals_malformed", "Messages on muster.renewals that were no renewals."],
};

export function registerMetrics(metrics: Registry, read: () => MessagingFigures): void {
  for (const [figure, [name, help]] of Object.entries(described) as [keyof MessagingFigures, [string, string]][]) {
    new Gauge({
      name,
      help,
      registers: [metrics],
      collect() {
        const value = read()[figure];
        if (value !== undefined) this.set(Number(value));
      },
    });
  }
}
