import { expect } from "chai";
import { eventLine, logLine } from "../../scripts/report.ts";

const entry = (fields: object) => JSON.stringify({ time: 1, site: "local", ...fields });

describe("a line of the coordinator's log", () => {
  it("is not shown below a warning", () => {
    expect(logLine(entry({ level: 30, msg: "the bridge serves" }))).to.equal(undefined);
  });

  it("is shown in plain words from a warning on", () => {
    expect(logLine(entry({ level: 40, msg: "slow" }))).to.equal("coordinator: warning: slow");
    expect(logLine(entry({ level: 50, msg: "lost" }))).to.equal("coordinator: error: lost");
  });

  it("is shown when it says that what was wrong is over", () => {
    expect(logLine(entry({ level: 30, recovered: true, msg: "the store is back" }))).to.equal(
      "coordinator: the store is back",
    );
  });

  it("is shown with the reason that comes with it, once", () => {
    expect(logLine(entry({ level: 50, msg: "lost", err: { message: "refused" } }))).to.equal(
      "coordinator: error: lost: refused",
    );
    expect(logLine(entry({ level: 50, msg: "refused", err: { message: "refused" } }))).to.equal(
      "coordinator: error: refused",
    );
  });

  for (const line of ["Error: no JSON", "{ no: JSON }", '{"no":"log"}']) {
    it(`is shown as it is when it is none: ${line}`, () => {
      expect(logLine(line)).to.equal(`coordinator: ${line}`);
    });
  }
});

describe("what happened to a service", () => {
  it("is told with how it ended and when it is tried again", () => {
    const died = { type: "died", service: "broker", how: "SIGKILL", restartInMs: 250 } as const;
    expect(eventLine(died)).to.equal("ended (SIGKILL); starts again in 0.3 s");
  });
});
