/** Every `sh` block of the README and the guides runs, in order, against a site that was just started. */
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect } from "chai";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";

const root = resolve(import.meta.dirname, "../..");

/** Commands that other tests run, or that only a person can: each with where it is held to its word. */
const elsewhere: [RegExp, string][] = [
  [/^npm (start|test|run)\b/, "test/integration/start.test.ts and the test run itself"],
  [/^docker\b/, "no container engine in the tests; said so in the README"],
];

/** Runs a block as a user's shell would, but stops at the first command that fails. */
function shell(script: string, cwd: string, env: NodeJS.ProcessEnv): Promise<{ code: number; output: string }> {
  return new Promise((done) => {
    execFile("bash", ["-euo", "pipefail", "-c", script], { cwd, env, timeout: 30_000 }, (error, stdout, stderr) => {
      done({ code: error === null ? 0 : Number(error.code ?? 1), output: stdout + stderr });
    });
  });
}

async function guides(): Promise<string[]> {
  const docs = (await readdir(join(root, "docs"))).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`);
  return ["README.md", ...docs.sort()];
}

describe("the commands in the guides", function () {
  this.timeout(120_000);
  const vhost = useVhost();
  let coordinator: RunningCoordinator;
  let home: string;
  before(async () => {
    const args = ["--amqp-management-url", vhost.managementUrl];
    coordinator = await startCoordinator({ amqpUrl: vhost.url, args });
    home = await mkdtemp(join(tmpdir(), "muster-guides-"));
  });
  after(async () => {
    await coordinator?.close();
    await rm(home, { recursive: true });
  });

  it("all run", async () => {
    for (const guide of await guides()) {
      const blocks = [...(await readFile(join(root, guide), "utf8")).matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(
        ([, block]) => block ?? "",
      );
      for (const block of blocks) {
        const script = block
          .split("\n")
          .filter((line) => !elsewhere.some(([pattern]) => pattern.test(line)))
          .join("\n")
          .replaceAll(/http:\/\/(127\.0\.0\.1|localhost):8080/g, coordinator.url);
        const env = {
          ...process.env,
          HOME: home,
          MUSTER_URL: coordinator.url,
          PATH: `${root}/node_modules/.bin:${process.env.PATH}`,
        };
        // Problems are answers to curl: --fail makes them failures here.
        const { code, output } = await shell(`curl() { command curl --fail-with-body "$@"; }\n${script}`, root, env);
        expect(code, `${guide}:\n${block}\n${output}`).to.equal(0);
      }
    }
  });
});
