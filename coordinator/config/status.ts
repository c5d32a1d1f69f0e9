/** Who has applied which configuration: the registry's reports beside what each component should have. Pure. */
import type { ComponentDocument } from "../../config-db/generated/types.ts";

export interface ComponentStatus {
  id: string;
  /** What the component last reported on; absent where it never did. */
  etag?: string;
  /** The etag of its effective settings now. */
  wanted: string;
  status: "applied" | "rejected" | "pending";
  reason?: string;
  at?: string;
}

export interface StatusSummary {
  total: number;
  applied: number;
  rejected: number;
  pending: number;
  components: ComponentStatus[];
}

/** A report on another etag than the wanted one says nothing about the wanted one: pending. */
export function componentStatus(component: ComponentDocument, wanted: string): ComponentStatus {
  const { id, configStatus: report } = component;
  if (report === undefined) return { id, wanted, status: "pending" };
  const status = report.etag === wanted ? report.status : "pending";
  const { etag, at } = report;
  return { id, etag, wanted, status, ...(status === "rejected" ? { reason: report.reason ?? "" } : {}), at };
}

/** All of `statuses`, in the order of their ids. */
export function summarize(statuses: ComponentStatus[]): StatusSummary {
  const count = (status: ComponentStatus["status"]) => statuses.filter((one) => one.status === status).length;
  return {
    total: statuses.length,
    applied: count("applied"),
    rejected: count("rejected"),
    pending: count("pending"),
    components: statuses.toSorted((a, b) => (a.id < b.id ? -1 : 1)),
  };
}
