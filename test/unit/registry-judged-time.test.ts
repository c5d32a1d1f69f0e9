import { expect } from "chai";
import { JudgedTime } from "../../coordinator/judged-time.ts";

const options = { stallAfterMs: 300, settleMaxMs: 5_000 };

/** Observes every 50 ms from `fromMs` for `forMs`. @returns the time of the last observation. */
function run(time: JudgedTime, fromMs: number, forMs: number): number {
  for (let at = fromMs + 50; at <= fromMs + forMs; at += 50) time.observe(at);
  return fromMs + forMs;
}

describe("judged time", () => {
  it("runs with the clock while it is observed", () => {
    const time = new JudgedTime(options);
    time.observe(1_000);
    run(time, 1_000, 2_000);
    expect(time.judgedMs).to.equal(2_000);
  });

  it("leaves out a stall and as long again for the backlog", () => {
    const time = new JudgedTime(options);
    time.observe(0);
    expect(time.observe(2_000)).to.equal(2_000);
    expect(time.settling).to.equal(true);
    run(time, 2_000, 2_000);
    expect(time.judgedMs).to.equal(0);
    expect(time.settling).to.equal(false);
    run(time, 4_000, 1_000);
    expect(time.judgedMs).to.equal(1_000);
  });

  it("settles no longer than its limit, however long it was away", () => {
    const time = new JudgedTime(options);
    time.observe(0);
    time.observe(86_400_000);
    run(time, 86_400_000, 6_000);
    expect(time.judgedMs).to.equal(1_000);
  });

  it("stands still over a backward jump, settles, and goes on from there", () => {
    const time = new JudgedTime(options);
    time.observe(100_000);
    time.observe(40_000);
    expect(time.settling).to.equal(true);
    run(time, 40_000, 5_500);
    expect(time.judgedMs).to.equal(500);
  });

  it("counts a pause shorter than a stall in full", () => {
    const time = new JudgedTime(options);
    time.observe(0);
    time.observe(300);
    expect(time.judgedMs).to.equal(300);
  });

  it("dates what happens between two observations no earlier than the next one will", () => {
    const time = new JudgedTime(options);
    time.observe(0);
    const dated = time.at(120);
    time.observe(120);
    expect(dated).to.equal(120).and.to.be.at.least(time.judgedMs);
  });

  it("dates what happens in a stall ahead by no more than the stall's threshold", () => {
    const time = new JudgedTime(options);
    time.observe(0);
    expect(time.at(60_000)).to.equal(300);
  });
});
