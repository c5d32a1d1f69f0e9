/** What happened to components, the last of it kept so that a watcher that was away can catch up. */
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { type DiscoveryQuery, fits } from "./discovery.ts";

export type EventKind = "up" | "changed" | "expired" | "gone" | "removed" | "unverified";

/** A record at a moment; `heard` says whether its site was heard from. */
export interface Sight {
  document: ComponentDocument;
  heard: boolean;
}

export interface RegistryEvent {
  kind: EventKind;
  /** The record after the event; for `removed` the last that was. */
  component: ComponentDocument;
  before: Sight | undefined;
  /** Absent when it was removed. */
  after: Sight | undefined;
}

/** What became of a record between two sights of it, or undefined when a reader sees no difference. */
export function eventOf(before: Sight | undefined, after: Sight | undefined): RegistryEvent | undefined {
  const component = (after ?? before)?.document;
  if (component === undefined) return undefined;
  return { kind: kindOf(before, after), component, before, after };
}

function kindOf(before: Sight | undefined, after: Sight | undefined): EventKind {
  if (after === undefined) return "removed";
  if (!after.heard) return before?.heard === false ? "changed" : "unverified";
  const [was, is] = [before?.document, after.document];
  if (before?.heard === false || was?.state !== is.state) return is.state;
  // A newer process, another type, another home: whatever was set up for the former one has to be set up again.
  const isAnother = was.incarnation !== is.incarnation || was.type !== is.type || was.site !== is.site;
  return is.state === "up" && isAnother ? "up" : "changed";
}

/**
 * What a watcher of `query` is told of an event, or undefined when it does not concern it. What leaves the query's answer
 * for another reason than its state (a tag taken off, a check that fails) is `removed` from it; what enters is `up`.
 */
export function toldAs(query: DiscoveryQuery, { kind, before, after }: RegistryEvent): EventKind | undefined {
  const was = before !== undefined && fits(query, before.document, before.heard);
  const is = after !== undefined && fits(query, after.document, after.heard);
  if (!was && !is) return undefined;
  if (is) return !was && kind === "changed" ? "up" : kind;
  // Who asks for any state, or for this one, lost it by something else, and would put what is told by its state.
  const isByState = (kind === "expired" || kind === "gone") && query.state !== "any" && query.state !== kind;
  return isByState ? kind : "removed";
}

export interface LogEntry {
  /** Grows within the run of a process; another process has other ids, and a watcher from there gets a `reset`. */
  id: string;
  event: RegistryEvent;
}

export class EventLog {
  readonly #run: string;
  readonly #max: number;
  readonly #ring: LogEntry[] = [];
  #count = 0;

  /** @param run names this run of the process. @param max events kept; older ones cannot be resumed from. */
  constructor(run: string, max: number) {
    this.#run = run;
    this.#max = max;
  }

  /** The id of the latest event: what a `reset` is up to date with. */
  get lastId(): string {
    return `${this.#run}-${this.#count}`;
  }

  append(event: RegistryEvent): LogEntry {
    this.#count += 1;
    const entry = { id: this.lastId, event };
    this.#ring[this.#count % this.#max] = entry;
    return entry;
  }

  /** The entries after the one of this id, or undefined when they are not all here: the watcher needs a `reset`. */
  after(id: string): LogEntry[] | undefined {
    const [, run, digits] = /^(.+)-(\d{1,15})$/.exec(id) ?? [];
    const seen = Number(digits);
    if (run !== this.#run || seen > this.#count || this.#count - seen > this.#max) return undefined;
    const entries: LogEntry[] = [];
    for (let number = seen + 1; number <= this.#count; number += 1) {
      entries.push(this.#ring[number % this.#max] as LogEntry);
    }
    return entries;
  }
}
