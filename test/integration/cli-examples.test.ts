/** Every example of every `--help`, and every command in docs/cli.md, runs against a site that has what they name. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { expect } from "chai";
import type { Command } from "commander";
import { type Example, examplesOf } from "../../clients/cli/examples.ts";
import { Invocation } from "../../clients/cli/invocation.ts";
import { createProgram } from "../../clients/cli/program.ts";
import { brokerStartTimeoutMs, useVhost } from "../support/broker.ts";
import { startMuster } from "../support/cli.ts";
import { eventually } from "../support/eventually.ts";
import { startWorld, type World } from "./cli-world.ts";

const guide = resolve(import.meta.dirname, "../../docs/cli.md");
function allExamples(command: Command): Example[] {
  return [...examplesOf(command), ...command.commands.flatMap(allExamples)];
}

/** In the guide: the lines of ```bash blocks that are not comments, those that go on after a backslash as one. */
async function guideLines(): Promise<string[]> {
  const blocks = [...(await readFile(guide, "utf8")).matchAll(/^```bash\n([\s\S]*?)^```$/gm)].map(
    ([, block]) => block ?? "",
  );
  const lines = blocks.flatMap((block) => block.replaceAll(/\\\n\s*/g, "").split("\n"));
  return lines
    .map((line) => line.replace(/\s+# .*$/, "").trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/** The words of a line that needs no shell; undefined for one that does. */
function plainWords(line: string): string[] | undefined {
  if (!line.startsWith("muster ") || /[|<>$;&]|\bEDITOR=/.test(line.replaceAll(/'[^']*'/g, ""))) return undefined;
  const { stdout } = spawnSync("bash", ["-c", `printf '%s\\0' ${line}`], { encoding: "utf8" });
  return stdout.split("\0").slice(1, -1);
}

const goesOn = /\b(watch|--watch|events|tap|station)\b/;

describe("the examples of the command line", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let world: World;
  before(async function () {
    this.timeout(brokerStartTimeoutMs);
    world = await startWorld(vhost);
  });
  after(() => world?.close());
  beforeEach(() => world.restore());

  const terminal = {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: {},
    signal: new AbortController().signal,
  };
  const lines = [...new Set(allExamples(createProgram(new Invocation(terminal))).map(({ line }) => line))];
  for (const line of lines) it(line, () => runLine(line));

  it("in docs/cli.md all run", async function () {
    this.timeout(180_000);
    for (const line of await guideLines()) {
      // What an example says already has run above.
      if (lines.includes(line)) continue;
      await world.restore();
      await runLine(line);
    }
  });

  async function runLine(written: string): Promise<void> {
    // No two sites or stations of this machine can have the ports that people have.
    const line = written
      .replaceAll("http://127.0.0.1:8080", world.coordinator.url)
      .replaceAll("http://127.0.0.1:8090", world.coordinator.url)
      .replace(/^npx /, "")
      .replace(/^muster station/, "muster station --http-port 0 --couchdb-port 0");
    if (/\bjq\b/.test(line) && !has("jq")) return;
    if (/\bfish\b/.test(line) && !has("fish")) return;
    const words = plainWords(line);
    if (/^(EDITOR=\S*( --wait')? )?muster config edit/.test(line)) await inTerminal(line);
    else if (goesOn.test(line)) await untilItSays(line, words);
    else if (words === undefined) await inShell(line);
    else {
      const { env, directory } = world;
      const before = process.cwd();
      process.chdir(directory);
      try {
        const started = startMuster(words, { env });
        const exitCode = await started.ended;
        expect(exitCode, `${line}\n${started.stdout}${started.stderr}`).to.equal(0);
        expect(started.stdout, line).to.not.equal("");
      } finally {
        process.chdir(before);
      }
    }
  }

  function shell(script: string): { child: ChildProcess; output(): string } {
    const child = spawn("bash", ["-o", "pipefail", "-c", script], {
      cwd: world.directory,
      env: { ...process.env, ...world.env },
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (bytes: Buffer) => (output += bytes.toString()));
    return { child, output: () => output };
  }

  async function inShell(line: string): Promise<void> {
    const script = /\bfish\b/.test(line) ? `fish -c '${line}'` : line;
    const { child, output } = shell(script);
    child.stdin?.end();
    const [code] = await once(child, "close");
    expect(code, `${line}\n${output()}`).to.equal(0);
  }

  /** As a person would: with a terminal, answering yes. */
  async function inTerminal(line: string): Promise<void> {
    const { child, output } = shell(`script -qec "${line}" /dev/null`);
    await eventually(() => expect(output()).to.contain("Write it?"));
    child.stdin?.write("y\n");
    const [code] = await once(child, "close");
    expect(code, `${line}\n${output()}`).to.equal(0);
    expect(output()).to.match(/is at version \d+/);
  }

  /** What goes on for ever is ended when it has said something: there are events and messages all the time. */
  async function untilItSays(line: string, words: string[] | undefined): Promise<void> {
    const { call } = world.coordinator;
    const stir = async () => {
      await call("POST", "/v1/events", { name: "reading", body: { celsius: 21.5 }, from: "collector-1" });
      await call("POST", "/v1/commands", { to: { component: "collector-1" }, name: "recalibrate" });
    };
    if (words !== undefined) {
      const started = startMuster(words, { env: { ...process.env, ...world.env } });
      const ended = started.ended.then((code) => `${line} ended with ${code}: ${started.stderr}`);
      const said = eventually(
        async () => {
          await stir();
          expect(started.stdout, `${line}\n${started.stderr}`).to.match(/\n/);
        },
        { timeoutMs: 30_000, everyMs: 200 },
      ).then(() => "said");
      expect(await Promise.race([said, ended])).to.equal("said");
      started.interrupt();
      expect(await started.ended).to.equal(130);
      return;
    }
    // Programs such as jq hold back what they print into a pipe.
    const { child, output } = shell(`script -qec ${quoted(line)} /dev/null`);
    const closed = once(child, "close");
    try {
      await eventually(
        async () => {
          await stir();
          expect(output(), line).to.match(/\n/);
        },
        { timeoutMs: 30_000, everyMs: 200 },
      );
    } finally {
      process.kill(-(child.pid as number), "SIGTERM");
      await closed;
    }
  }
});

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function has(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
}
