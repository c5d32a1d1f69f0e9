/**
 * Signals: hints that a record changed. A component that is away reads the record when it returns, so nothing is kept and
 * nothing waits for queues that do not stand yet.
 */
import { exchanges, headers, typeSignalKey } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { publishOptions } from "./envelope.ts";
import type { Members } from "./members.ts";
import { draftLetter } from "./send.ts";

export interface SignalsOptions {
  broker: Broker;
  members: Members;
  site: string;
  wallClock: () => Date;
}

export interface Signal {
  kind: "config";
  revisionOf: (id: string) => string;
  /** Of the leader that sends it: components ignore a lower one than they have seen. */
  epoch?: number;
}

/** A signal as it is published: to one component, or once to all of a type. */
export interface Hint {
  key: string;
  id: string;
  revision: string;
}

/** Hints under way at once: more would only fill the sockets' buffers. */
const atOnce = 2_000;
/** A hint that nobody took for so long tells nothing. */
const ttlMs = 60_000;
/** From so many components of a type on, one fanout is cheaper than a message each. */
const wholeTypeMin = 5;

/**
 * The fewest messages that reach exactly `ids`: one for each type of which all members get the same revision, one for
 * every other component.
 */
export function planHints(ids: string[], revisionOf: (id: string) => string, members: Members, site: string): Hint[] {
  const wanted = new Map<string, { ids: string[]; revisions: Set<string> }>();
  for (const id of ids) {
    const type = members.get(id)?.type ?? "";
    const group = wanted.get(type) ?? { ids: [], revisions: new Set() };
    group.ids.push(id);
    group.revisions.add(revisionOf(id));
    wanted.set(type, group);
  }
  const sizes = new Map<string, number>();
  if (ids.length >= wholeTypeMin)
    for (const member of members.all())
      if (member.site === site) sizes.set(member.type, (sizes.get(member.type) ?? 0) + 1);
  return [...wanted].flatMap(([type, { ids: group, revisions }]): Hint[] => {
    const [revision = ""] = revisions;
    const isWhole = group.length >= wholeTypeMin && revisions.size === 1 && sizes.get(type) === group.length;
    return isWhole
      ? [{ key: typeSignalKey(type), id: type, revision }]
      : group.map((id) => ({ key: id, id, revision: revisionOf(id) }));
  });
}

export class Signals {
  readonly #options: SignalsOptions;

  constructor(options: SignalsOptions) {
    this.#options = options;
  }

  /** Resolves when the broker has all hints. @throws MusterError `broker-unavailable` */
  async send(ids: string[], { kind, revisionOf, epoch }: Signal): Promise<void> {
    const { members, site } = this.#options;
    const hints = planHints(ids, revisionOf, members, site);
    for (let start = 0; start < hints.length; start += atOnce)
      await Promise.all(hints.slice(start, start + atOnce).map((hint) => this.#publish(kind, hint, epoch)));
  }

  async #publish(kind: Signal["kind"], { key, id, revision }: Hint, epoch: number | undefined): Promise<void> {
    const nowMs = this.#options.wallClock().getTime();
    const letter = draftLetter(
      // Its own at every time: a change back and forth is two signals.
      { messageId: `${kind}-${key}-${nowMs}-${revision.slice(0, 40)}`.slice(0, 128), kind: "signal", name: kind },
      Buffer.from(JSON.stringify({ kind, id, revision })),
      nowMs,
    );
    const options = publishOptions(letter.envelope, nowMs, { persistent: false });
    const fenced = epoch === undefined ? options.headers : { ...options.headers, [headers.epoch]: epoch };
    await this.#options.broker.publish({
      exchange: exchanges.signals,
      key,
      content: letter.content,
      options: { ...options, headers: fenced, expiration: ttlMs },
    });
  }
}
