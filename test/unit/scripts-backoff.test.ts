import { expect } from "chai";
import { afterFailure, restartPolicy } from "../../scripts/backoff.ts";

const { firstMs, maxMs, healthyMs } = restartPolicy;

describe("the backoff between restarts", () => {
  it("doubles from 250 ms up to 5 s", () => {
    const delays: number[] = [];
    let failures = 0;
    for (let restart = 0; restart < 7; restart += 1) {
      const next = afterFailure(failures, 0, 1);
      failures = next.failures;
      delays.push(next.delayMs);
    }
    expect(delays).to.deep.equal([250, 500, 1000, 2000, 4000, 5000, 5000]);
  });

  it("leaves half of the delay to chance", () => {
    expect(afterFailure(2, 0, 0).delayMs).to.equal(500);
    expect(afterFailure(2, 0, 0.5).delayMs).to.equal(750);
    expect(afterFailure(2, 0, 1).delayMs).to.equal(1000);
  });

  it("begins again after half a minute of health, and not a moment before", () => {
    expect(afterFailure(9, healthyMs, 1)).to.deep.equal({ failures: 1, delayMs: firstMs });
    expect(afterFailure(9, healthyMs - 1, 1)).to.deep.equal({ failures: 10, delayMs: maxMs });
  });

  it("stays at its limit however often something fails", () => {
    expect(afterFailure(1_000_000, 0, 1).delayMs).to.equal(maxMs);
  });
});
