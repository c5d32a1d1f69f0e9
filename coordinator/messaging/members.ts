/** What messaging needs of the registry: who there is, and where. */
export interface Member {
  id: string;
  type: string;
  /** The component's home site: its queues are there. */
  site: string;
  state: "up" | "expired" | "gone";
  ttlMs: number;
  /** Of its newest process. */
  incarnation?: number;
  webhook?: { url: string; secret: string };
}

/** Every component that was not removed has queues: those expired and gone too. */
export interface Members {
  get(id: string): Member | undefined;
  all(): Iterable<Member>;
}
