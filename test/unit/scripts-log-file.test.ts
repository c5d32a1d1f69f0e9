import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { LogFile } from "../../scripts/log-file.ts";

describe("a log file", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "muster-log-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const read = (name: string) => readFileSync(join(directory, name), "utf8");

  it("keeps what an earlier run wrote", () => {
    new LogFile(join(directory, "a.log")).write("one");
    new LogFile(join(directory, "a.log")).write("two");
    expect(read("a.log")).to.equal("one\ntwo\n");
  });

  it("starts over when it is full, with the full one beside it, and never has a third", () => {
    const log = new LogFile(join(directory, "a.log"), 10);
    for (const line of ["1234", "5678", "abcd", "efgh", "ijkl"]) log.write(line);
    expect(read("a.log.1")).to.equal("abcd\nefgh\n");
    expect(read("a.log")).to.equal("ijkl\n");
    expect(readdirSync(directory)).to.have.length(2);
  });

  it("counts what an earlier run wrote towards its size", () => {
    new LogFile(join(directory, "a.log"), 10).write("12345678");
    new LogFile(join(directory, "a.log"), 10).write("x");
    expect(read("a.log")).to.equal("x\n");
  });

  it("takes a line that is longer than itself", () => {
    new LogFile(join(directory, "a.log"), 3).write("12345678");
    expect(read("a.log")).to.equal("12345678\n");
  });
});
