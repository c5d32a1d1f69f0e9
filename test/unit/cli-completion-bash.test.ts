import { execFile } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { completionScripts } from "../../clients/cli/completion-scripts.ts";

describe("completion in bash", () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-completion-"));
    // What the command would answer, by the last word: the script under test is only the hand-over.
    const answers = `#!/bin/sh
for last; do :; done
case "$last" in
  rules*) echo :files ;;
  *:*) printf 'type:collector\\t\\ntype:cooler\\t\\n' ;;
  *=*) printf -- '--state=up\\t\\n' ;;
  *) printf 'config\\tread settings\\nconflicts\\tsettle\\n' ;;
esac
echo "$@" > ${directory}/asked
`;
    await writeFile(join(directory, "muster"), answers);
    await chmod(join(directory, "muster"), 0o755);
    await writeFile(join(directory, "completion.bash"), completionScripts.bash);
    await writeFile(join(directory, "rules.json"), "");
  });
  after(() => rm(directory, { recursive: true }));

  /** What readline would offer for `line`, and what the command was asked. */
  async function complete(line: string): Promise<{ offered: string[]; asked: string }> {
    const script = `source ./completion.bash
COMP_LINE="$1" COMP_POINT=\${#1}
_muster
printf '%s\\n' "\${COMPREPLY[@]}"
printf 'asked %s\\n' "$(cat asked)"`;
    const output = await new Promise<string>((resolve, reject) => {
      const env = { ...process.env, PATH: `${directory}:${process.env.PATH}` };
      execFile("bash", ["--norc", "-c", script, "bash", line], { cwd: directory, env }, (error, stdout) =>
        error === null ? resolve(stdout) : reject(error),
      );
    });
    const lines = output.trimEnd().split("\n");
    return { offered: lines.slice(0, -1), asked: (lines.at(-1) ?? "").replace("asked ", "") };
  }

  it("hands the words over and offers what comes back", async () => {
    expect(await complete("muster conf")).to.deep.equal({
      offered: ["config", "conflicts"],
      asked: "completion words -- conf",
    });
  });

  it("hands an empty word over after a blank", async () => {
    expect((await complete("muster ")).offered).to.deep.equal(["config", "conflicts"]);
  });

  it("offers only what follows a colon or an equals sign, for that is all that readline replaces", async () => {
    expect((await complete("muster config get type:c")).offered).to.deep.equal(["collector", "cooler"]);
    expect((await complete("muster components ls --state=u")).offered).to.deep.equal(["up"]);
  });

  it("completes files where a file is to stand", async () => {
    expect((await complete("muster config set platform -f rules")).offered).to.deep.equal(["rules.json"]);
  });
});
