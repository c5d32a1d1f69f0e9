import { expect } from "chai";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { defaultRetention, overdueForRemoval, WallClockWatch } from "../../coordinator/registry/retention.ts";
import { Beats } from "../../coordinator/sites/beat.ts";

const hourMs = 3_600_000;
const now = new Date("2024-02-01T00:00:00.000Z");

function left(state: ComponentDocument["state"], hoursAgo: number, site = "here"): ComponentDocument {
  const changedAt = new Date(now.getTime() - hoursAgo * hourMs).toISOString();
  return { id: `${state}-${hoursAgo}`, state, site, changedAt, incarnation: 1 } as ComponentDocument;
}

describe("retention", () => {
  it("keeps who is gone for a day, who expired for a week, and who is up for ever", () => {
    const records = [left("gone", 23), left("gone", 25), left("expired", 167), left("expired", 169), left("up", 9_999)];
    const overdue = overdueForRemoval(records, "here", defaultRetention, now);
    expect(overdue.map(({ id }) => id)).to.deep.equal(["gone-25", "expired-169"]);
  });

  it("leaves the components of other sites to them", () => {
    expect(overdueForRemoval([left("gone", 99, "there")], "here", defaultRetention, now)).to.deep.equal([]);
  });
});

describe("the watch over the wall clock", () => {
  it("is steady while both clocks go alike", () => {
    const watch = new WallClockWatch();
    expect(watch.isSteady(0, 1_000_000)).to.equal(true);
    expect(watch.isSteady(60_000, 1_060_500)).to.equal(true);
  });

  for (const jumpMs of [365 * 24 * hourMs, -120_000]) {
    it(`is not for an hour after a jump by ${jumpMs} ms`, () => {
      const watch = new WallClockWatch();
      watch.isSteady(0, 1_000_000_000);
      expect(watch.isSteady(60_000, 1_000_060_000 + jumpMs)).to.equal(false);
      expect(watch.isSteady(60_000 + hourMs - 1, 1_000_060_000 + jumpMs + hourMs - 1)).to.equal(false);
      expect(watch.isSteady(60_000 + hourMs, 1_000_060_000 + jumpMs + hourMs)).to.equal(true);
    });
  }
});

describe("the beats of sites", () => {
  const record = (beat: number, epoch = 1) => ({ beat, epoch, beatEveryMs: 1_000 });

  it("are heard for three intervals and some slack after the last advance", () => {
    const beats = new Beats();
    beats.observe("there", record(1), 0);
    expect(beats.hears("there", 8_000)).to.equal(true);
    expect(beats.hears("there", 8_001)).to.equal(false);
  });

  it("do not count for an advance when the same one is seen again", () => {
    const beats = new Beats();
    beats.observe("there", record(1), 0);
    beats.observe("there", record(1), 7_000);
    expect(beats.ageMs("there", 8_000)).to.equal(8_000);
  });

  it("count from anew when a site was set up anew", () => {
    const beats = new Beats();
    beats.observe("there", record(500, 9), 0);
    beats.observe("there", record(0, 1), 7_000);
    expect(beats.ageMs("there", 8_000)).to.equal(1_000);
  });

  it("are not heard for longer because a record says an interval that there is not", () => {
    const beats = new Beats();
    beats.observe("there", record(1), 0);
    beats.observe("there", { ...record(2), beatEveryMs: 2 ** 40 }, 7_000);
    expect(beats.hears("there", 8_001)).to.equal(false);
  });

  it("are not heard of a site that never beat", () => {
    expect(new Beats().hears("there", 0)).to.equal(false);
  });
});
