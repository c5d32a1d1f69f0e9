import { expect } from "chai";
import type { PouchDB } from "pouchdb";
import { ChangesTail } from "../../config-db/embedded/changes-tail.ts";
import { eventually } from "../support/eventually.ts";

/** A database whose changes are numbers. */
class Numbers {
  newest = 0;
  readonly tail = new ChangesTail((work) => work(this.#pouch));

  readonly #pouch = {
    changes: async ({ since }: { since: number }) => {
      const seqs = Array.from({ length: this.newest - since }, (_, at) => since + 1 + at);
      const results = seqs.map((seq) => ({ seq, id: `${seq}`, changes: [], doc: { _id: `${seq}`, _rev: "1-a" } }));
      return { results, last_seq: this.newest };
    },
  } as unknown as PouchDB.Database;

  write(): void {
    this.newest += 1;
    this.tail.poke();
  }

  wait(since: number): { given: number[] } {
    const waiter = { given: [] as number[] };
    const isWaiting = this.tail.wait(since, (changes) => waiter.given.push(...changes.map(({ seq }) => seq)));
    expect(isWaiting, `waits after ${since}`).to.equal(true);
    return waiter;
  }
}

describe("the tail of a database's changes", () => {
  it("hands one page to all who wait", async () => {
    const numbers = new Numbers();
    const waiters = [numbers.wait(0), numbers.wait(0)];
    numbers.write();
    await eventually(() => expect(waiters.map(({ given }) => given)).to.deep.equal([[1], [1]]));
  });

  it("passes nobody over for a feed that has read by itself what was just written, and waits after it", async () => {
    const numbers = new Numbers();
    const slow = numbers.wait(0);
    numbers.write();
    const quick = numbers.wait(1);
    await eventually(() => expect(slow.given).to.deep.equal([1]));
    numbers.write();
    await eventually(() => expect(quick.given).to.deep.equal([2]));
  });

  it("gives at once what was there before a reading that began further on", async () => {
    const numbers = new Numbers();
    numbers.write();
    numbers.write();
    const ahead = numbers.wait(2);
    const behind = numbers.wait(1);
    await eventually(() => expect(behind.given).to.deep.equal([2]));
    expect(ahead.given).to.deep.equal([]);
  });
});
