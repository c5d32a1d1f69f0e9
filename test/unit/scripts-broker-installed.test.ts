import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { withoutServiceStarts } from "../../scripts/broker/installed.ts";

describe("installing without starting services", () => {
  let directory: string;
  let policy: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "muster-policy-"));
    policy = join(directory, "policy-rc.d");
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  /** Debian asks the policy like this; 101 means that nothing may be started. */
  function answerOf(file: string): number {
    try {
      execFileSync(file, ["rabbitmq-server", "start"]);
      return 0;
    } catch (error) {
      return (error as { status: number }).status;
    }
  }

  it("has a policy that forbids it meanwhile, and none after", async () => {
    let answer = 0;
    await withoutServiceStarts(async () => {
      answer = answerOf(policy);
    }, policy);
    expect(answer).to.equal(101);
    expect(existsSync(policy)).to.equal(false);
  });

  it("takes its policy back when the installation fails", async () => {
    const failing = withoutServiceStarts(async () => {
      throw new Error("no network");
    }, policy);
    expect(await failing.catch((error: Error) => error.message)).to.equal("no network");
    expect(existsSync(policy)).to.equal(false);
  });

  it("leaves the machine's own policy as it is", async () => {
    writeFileSync(policy, "#!/bin/sh\nexit 104\n");
    await withoutServiceStarts(async () => undefined, policy);
    expect(readFileSync(policy, "utf8")).to.equal("#!/bin/sh\nexit 104\n");
  });

  it("removes what an installation that was killed left behind", async () => {
    let left = "";
    await withoutServiceStarts(async () => {
      left = readFileSync(policy, "utf8");
    }, policy);
    writeFileSync(policy, left);
    await withoutServiceStarts(async () => undefined, policy);
    expect(existsSync(policy)).to.equal(false);
  });
});
