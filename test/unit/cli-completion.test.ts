import { expect } from "chai";
import type { Command } from "commander";
import { complete, kinds } from "../../clients/cli/completion.ts";
import { examplesOf } from "../../clients/cli/examples.ts";
import { Invocation } from "../../clients/cli/invocation.ts";
import { createProgram } from "../../clients/cli/program.ts";
import { muster } from "../support/cli.ts";

const program = createProgram(
  new Invocation({
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: {},
    signal: new AbortController().signal,
  }),
);

function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

const isHidden = (command: Command) => pathOf(command) === "muster completion words";
const commands = allCommands(program).filter((command) => !isHidden(command));
const wordsFor = (...words: string[]) => complete(program, words).candidates.map(({ word }) => word);

describe("completion", () => {
  it("offers commands, then what is below them", () => {
    expect(wordsFor("")).to.include.members(["status", "components", "config", "station", "completion"]);
    expect(wordsFor("conf")).to.deep.equal(["config", "conflicts"].filter((word) => word.startsWith("conf")));
    expect(wordsFor("config", "")).to.include.members(["get", "set", "edit", "diff", "explain", "history", "rollback"]);
    expect(wordsFor("component", "l")).to.deep.equal(["ls"]);
  });

  it("offers a command's options with the global ones, once each", () => {
    const words = wordsFor("config", "set", "type:x", "--");
    expect(words).to.include.members(["--file", "--merge", "--note", "--url", "--output", "--help"]);
    expect(new Set(words).size).to.equal(words.length);
  });

  it("offers the values of an option", () => {
    expect(wordsFor("components", "ls", "-o", "")).to.deep.equal(["table", "json"]);
    expect(wordsFor("components", "ls", "--state", "u")).to.deep.equal(["up", "unverified"]);
    expect(wordsFor("components", "ls", "--state=e")).to.deep.equal(["--state=expired"]);
    expect(complete(program, ["components", "ls", "--type", ""]).kind).to.equal("type");
    expect(complete(program, ["config", "set", "platform", "-f", ""]).files).to.equal(true);
  });

  it("asks the site for the names that an argument takes", () => {
    expect(complete(program, ["config", "get", ""]).kind).to.equal("layer");
    expect(complete(program, ["components", "show", ""]).kind).to.equal("component");
    expect(complete(program, ["components", "rm", "a", "b", ""]).kind).to.equal("component");
    expect(complete(program, ["send", "--url", "http://x", ""]).kind).to.equal("target");
    expect(complete(program, ["conflicts", "resolve", ""]).kind).to.equal("conflict");
    expect(complete(program, ["sites", "rm", ""]).kind).to.equal("site");
  });

  it("offers nothing where nothing can stand", () => {
    expect(complete(program, ["status", "x", ""])).to.deep.equal({ candidates: [] });
    expect(complete(program, ["config", "nonsense", ""])).to.deep.equal({ candidates: [] });
    expect(complete(program, ["--nonsense=x"])).to.deep.equal({ candidates: [] });
  });

  it("knows every kind of name that some argument asks for", () => {
    const asked = new Set<string>();
    for (const command of commands) {
      for (const [index] of command.registeredArguments.entries()) {
        const words = [...pathOf(command).split(" ").slice(1), ...Array<string>(index).fill("x"), ""];
        const { kind } = complete(program, words);
        if (kind !== undefined) asked.add(kind);
      }
    }
    expect(kinds).to.include.members([...asked]);
    expect([...asked]).to.include.members([
      "component",
      "layer",
      "type",
      "target",
      "secret",
      "dead-letter",
      "conflict",
      "site",
    ]);
  });

  it("prints a script for each shell", async () => {
    for (const shell of ["bash", "zsh", "fish"]) {
      const { exitCode, stdout } = await muster(["completion", shell]);
      expect(exitCode).to.equal(0);
      expect(stdout).to.contain(`Completion of muster for ${shell}`).and.to.contain("completion words --");
    }
  });

  it("stays silent when no coordinator answers", async () => {
    const { exitCode, stdout, stderr } = await muster([
      "completion",
      "words",
      "--",
      "--url",
      "http://127.0.0.1:1",
      "components",
      "show",
      "",
    ]);
    expect({ exitCode, stdout, stderr }).to.deep.equal({ exitCode: 0, stdout: "", stderr: "" });
  });
});

describe("the help", () => {
  it("of every command has a description and an example of that very command", () => {
    for (const command of commands) {
      const path = pathOf(command);
      expect(command.description(), path).to.match(/\.$/m);
      const lines = examplesOf(command).map(({ line }) => line);
      expect(lines, path).to.not.be.empty;
      if (command !== program)
        expect(
          lines.some((line) => line.includes(path)),
          `${path}: ${lines.join("; ")}`,
        ).to.equal(true);
    }
  });

  it("of every command can be printed and fits 100 columns", async () => {
    for (const command of commands) {
      const words = pathOf(command).split(" ").slice(1);
      const { exitCode, stdout, stderr } = await muster([...words, "--help"]);
      expect(exitCode, words.join(" ")).to.equal(0);
      expect(stderr).to.equal("");
      expect(Math.max(...stdout.split("\n").map((line) => line.length)), `${words.join(" ")}\n${stdout}`).to.be.at.most(
        102,
      );
      expect(stdout).to.contain("Usage: ");
    }
  });

  it("of a group without a command is an error of usage", async () => {
    const { exitCode, stderr } = await muster(["config"]);
    expect(exitCode).to.equal(2);
    expect(stderr).to.contain("Usage: muster config");
  });

  it("is pointed to, with the nearest command, when one is unknown", async () => {
    const { exitCode, stderr } = await muster(["config", "histroy", "platform"]);
    expect(exitCode).to.equal(2);
    expect(stderr).to.equal(
      "error: unknown command 'histroy' (Did you mean history?)\nnext: See muster config --help\n",
    );
  });

  it("lists the exit codes", async () => {
    const { stdout } = await muster(["--help"]);
    expect(stdout).to.contain("Exit codes:\n  0    done").and.to.contain("\n  130  interrupted");
  });
});
