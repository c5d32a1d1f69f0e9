import { readFileSync } from "node:fs";
import { expect } from "chai";
import type { Command } from "commander";
import { exitCodeMeanings } from "../../clients/cli/exit-codes.ts";
import { Invocation } from "../../clients/cli/invocation.ts";
import { createProgram } from "../../clients/cli/program.ts";

const guide = readFileSync(new URL("../../docs/cli.md", import.meta.url), "utf8");

describe("docs/cli.md", () => {
  it("has the exit codes as the program knows them", () => {
    const rows = [...guide.matchAll(/^\| (\d+) \| (.+) \|$/gm)].map(([, code, meaning]) => [code, meaning]);
    expect(Object.fromEntries(rows)).to.deep.equal(exitCodeMeanings);
  });

  it("mentions every group of commands", () => {
    const signal = new AbortController().signal;
    const terminal = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: {}, signal };
    const program: Command = createProgram(new Invocation(terminal));
    for (const command of program.commands) expect(guide, command.name()).to.contain(`muster ${command.name()}`);
  });
});
