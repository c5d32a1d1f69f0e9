import { expect } from "chai";
import fc from "fast-check";
import { compareRevisions, generationOf } from "../../config-db/revision.ts";
import { Memory, type Sighting } from "../../coordinator/registry/memory.ts";
import type { StoredComponent } from "../../coordinator/registry/roster.ts";

function record(id: string, rev: string): StoredComponent {
  return {
    _id: `component:${id}`,
    _rev: rev,
    kind: "component",
    schemaVersion: 1,
    id,
    type: "t",
    site: "here",
    ttlMs: 1_000,
    state: "up",
    incarnation: generationOf(rev),
    registeredAt: "2026-01-01T00:00:00.000Z",
    changedAt: "2026-01-01T00:00:00.000Z",
    epoch: 1,
  };
}

/** The higher incarnation is kept, as in coordinator/sites/registry-resolve.ts. */
const compareBranches = (one: StoredComponent, other: StoredComponent) => one.incarnation - other.incarnation;

const up = (rev: string, id = "c"): Sighting => ({
  id,
  rev,
  record: () => record(id, rev),
  incarnation: generationOf(rev),
});
const removed = (rev: string, id = "c"): Sighting => ({ ...up(rev, id), record: () => undefined });

describe("what a coordinator knows of a component's document", () => {
  let memory: Memory;
  beforeEach(() => {
    memory = new Memory({ compareBranches });
  });
  const state = () => [memory.revisionOf("c"), memory.roster.get("c") !== undefined] as const;

  it("is an acknowledged write before the feed brings it, and stays that when the feed brings what was before", () => {
    memory.follow(up("1-a"), ["1-a"]);
    memory.runAhead(up("2-a"), { replaced: ["1-a"] });
    expect(state()).to.deep.equal(["2-a", true]);
    expect(memory.follow(up("1-a"), ["1-a"])).to.equal(undefined);
    expect(memory.follow(up("2-a"), ["2-a"])).to.equal(undefined);
    expect(state()).to.deep.equal(["2-a", true]);
  });

  it("does not go back to an acknowledged write that another has replaced", () => {
    memory.follow(up("1-a"), ["1-a"]);
    memory.follow(up("3-a"), ["3-a"]);
    expect(memory.runAhead(up("2-a"), { replaced: ["1-a"] })).to.equal(undefined);
    expect(state()).to.deep.equal(["3-a", true]);
  });

  it("does not go back to one that was removed since, or removed and made again", () => {
    memory.follow(up("1-a"), ["1-a"]);
    memory.follow(removed("2-a"), ["2-a"]);
    expect(memory.runAhead(up("1-a"), { replaced: [] })).to.equal(undefined);
    expect(state()).to.deep.equal(["2-a", false]);
    memory.follow(up("3-a"), ["3-a"]);
    expect(memory.runAhead(removed("2-a"), { replaced: ["1-a"] })).to.equal(undefined);
    expect(state()).to.deep.equal(["3-a", true]);
  });

  it("is the record that was made again over a tombstone, known or not", () => {
    memory.follow(removed("2-a"), ["2-a"]);
    memory.runAhead(up("3-a"), { over: "2-a", replaced: [] });
    expect(state()).to.deep.equal(["3-a", true]);
    const unaware = new Memory({ compareBranches });
    unaware.runAhead(up("3-a"), { replaced: [] });
    unaware.follow(up("1-a"), ["1-a"]);
    unaware.follow(removed("2-a"), ["2-a"]);
    expect(unaware.revisionOf("c")).to.equal("3-a");
  });

  it("follows the feed to a winner of a lower or equal generation, when a conflict is settled so", () => {
    memory.follow(up("5-b"), ["5-b", "3-a"]);
    memory.follow(up("3-a"), ["3-a", "6-b"]);
    expect(state()).to.deep.equal(["3-a", true]);
    memory.follow(up("3-c"), ["3-c", "3-a", "6-b"]);
    expect(state()).to.deep.equal(["3-c", true]);
  });

  it("follows the feed to the other branch when its own write removed the one that won", () => {
    memory.follow(up("5-b"), ["5-b", "3-a"]);
    memory.runAhead(removed("6-b"), { replaced: ["5-b"] });
    memory.follow(up("5-b"), ["5-b", "3-a"]);
    expect(state()).to.deep.equal(["6-b", false]);
    memory.follow(up("3-a"), ["3-a", "6-b"]);
    expect(state()).to.deep.equal(["3-a", true]);
  });

  it("stays the record of a higher incarnation whose branch stands beside a winner of a higher generation", () => {
    const moved = { ...up("3-a"), record: () => ({ ...record("c", "3-a"), incarnation: 9 }) };
    memory.follow(moved, ["3-a"]);
    expect(memory.follow(up("5-b"), ["5-b", "3-a"])).to.equal(undefined);
    expect(memory.revisionOf("c")).to.equal("3-a");
    memory.runAhead(
      { ...moved, rev: "4-a", record: () => ({ ...record("c", "4-a"), incarnation: 9 }) },
      { replaced: ["3-a"] },
    );
    expect(memory.follow(up("5-b"), ["5-b", "4-a"])).to.equal(undefined);
    expect(memory.revisionOf("c")).to.equal("4-a");
    expect(memory.follow(up("6-b"), ["6-b", "5-a"])?.after?._rev).to.equal("6-b");
  });

  it("is not taken back by a tombstone above it that ends another branch", () => {
    memory.follow(up("3-a"), ["3-a", "6-b"]);
    memory.runAhead(up("4-a"), { replaced: ["3-a"] });
    expect(memory.follow(up("3-a"), ["3-a", "6-b"])).to.equal(undefined);
    expect(state()).to.deep.equal(["4-a", true]);
  });

  it("keeps the incarnation of what was removed until it is there again", () => {
    memory.follow({ ...up("4-a"), incarnation: 4 }, ["4-a"]);
    memory.follow({ ...removed("5-a"), incarnation: 0 }, ["5-a"]);
    expect(memory.incarnationOfRemoved("c")).to.equal(4);
    memory.follow(up("6-a"), ["6-a"]);
    expect(memory.incarnationOfRemoved("c")).to.equal(undefined);
  });

  it("never goes back to a revision that was replaced, and ends where the store does, over random schedules", () => {
    const anyKept = new Memory({ compareBranches: (one, other) => chanceOf(one._rev) - chanceOf(other._rev) });
    let documents = 0;
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        documents += 1;
        run(anyKept, `c${documents}`, seed);
      }),
      { numRuns: 2_000 },
    );
  }).timeout(20_000);
});

/** Leaves of one document, as a store has them at one time. */
interface State {
  leaves: Map<string, { deleted: boolean; path: string[] }>;
}

/** A store that others write too, sites among them, and a memory that hears of it by ways of random speed. */
function run(memory: Memory, id: string, seed: number): void {
  const random = randomFrom(seed);
  const pick = <T>(from: T[]): T => from[Math.floor(random() * from.length)] as T;
  let state: State = { leaves: new Map() };
  const changes: State[] = [];
  const late: (() => void)[] = [];
  const abandoned = new Set<string>();
  const seen: string[] = [];
  const paths = new Map<string, string[]>();
  let count = 0;

  /** Replaces the leaf `over`, or adds a branch. */
  const store = (over: string | undefined, deleted: boolean, generation?: number): string => {
    count += 1;
    const path = over === undefined ? [] : (state.leaves.get(over)?.path ?? []);
    const rev = `${generation ?? generationOf(over ?? "0") + 1}-${Math.floor(random() * 1_000)}x${count}`;
    const leaves = new Map(state.leaves);
    if (over !== undefined) leaves.delete(over);
    leaves.set(rev, { deleted, path: [rev, ...path] });
    paths.set(rev, [rev, ...path]);
    state = { leaves };
    changes.push(state);
    return rev;
  };
  const sightingOf = (of: State): Sighting => {
    const rev = winnerOf(of) as string;
    return of.leaves.get(rev)?.deleted === true ? removed(rev, id) : up(rev, id);
  };
  const steps: (() => void)[] = [
    // Another coordinator of the site.
    () => store(winnerOf(state), random() < 0.3),
    // Replication brings a branch of another site's.
    () => state.leaves.size < 3 && store(undefined, random() < 0.2, 1 + Math.floor(random() * 6)),
    // A conflict is settled: a branch ends.
    () => {
      const live = liveOf(state);
      if (live.length > 1) store(pick(live), true);
    },
    // We write over what we know.
    () => {
      const over = memory.revisionOf(id);
      const isThere = memory.roster.get(id) !== undefined;
      const winner = winnerOf(state);
      const isWinnerLive = winner !== undefined && state.leaves.get(winner)?.deleted === false;
      if (isThere ? !state.leaves.has(over as string) : isWinnerLive) return;
      const deleted = isThere && random() < 0.4;
      const rev = store(isThere ? over : winner, deleted);
      const replaced = isThere ? [over as string] : [];
      late.push(() => void memory.runAhead(deleted ? removed(rev, id) : up(rev, id), { over, replaced }));
    },
    // We read.
    () => {
      if (state.leaves.size === 0) return;
      const answer = state;
      const replaced = [...answer.leaves.values()].flatMap(({ path }) => path.slice(1));
      late.push(() => void memory.runAhead(sightingOf(answer), { replaced, branches: answer.leaves.size }));
    },
    // The feed brings the next change; of one document it may leave some out.
    () => {
      const [change] = changes.splice(0, random() < 0.5 ? 1 : 1 + Math.floor(random() * changes.length)).slice(-1);
      if (change !== undefined) memory.follow(sightingOf(change), [...change.leaves.keys()]);
    },
    () => late.splice(Math.floor(random() * late.length), 1)[0]?.(),
  ];
  const look = () => {
    const rev = memory.revisionOf(id);
    if (rev === undefined || rev === seen.at(-1)) return;
    if (abandoned.has(rev)) expect.fail(`back to ${rev} after ${seen.join(" ")}`);
    seen.push(rev);
    for (const old of paths.get(rev)?.slice(1) ?? []) abandoned.add(old);
  };
  for (let step = 0; step < 30; step += 1) {
    pick(steps)();
    look();
  }
  const settle = () => {
    while (changes.length > 0 || late.length > 0) {
      (changes.length > 0 && (late.length === 0 || random() < 0.5) ? steps.at(-2) : steps.at(-1))?.();
      look();
    }
  };
  settle();
  const [known, winner] = [memory.revisionOf(id), winnerOf(state)];
  if (known !== winner) {
    expect(state.leaves.get(known as string)?.deleted, `${known} stands`).to.equal(false);
    expect(chanceOf(known as string)).to.be.above(chanceOf(winner as string));
  }
  for (let live = liveOf(state); live.length > 1; live = liveOf(state)) store(pick(live), true);
  settle();
  expect(memory.revisionOf(id)).to.equal(winnerOf(state));
}

/** The part of a revision that decides which branch is kept. */
function chanceOf(rev: string): number {
  return Number.parseInt(rev.slice(rev.indexOf("-") + 1), 10);
}

function liveOf({ leaves }: State): string[] {
  return [...leaves].filter(([, { deleted }]) => !deleted).map(([rev]) => rev);
}

function winnerOf(state: State): string | undefined {
  const live = liveOf(state);
  return (live.length > 0 ? live : [...state.leaves.keys()]).sort(compareRevisions).at(-1);
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
