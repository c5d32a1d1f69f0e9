/** The client as its users get it: packed, installed beside nothing but what it declares, its README's programs run. */
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { builtinModules } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { type ProcessGroup, startGroup } from "../../scripts/process-group.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const packageDirectory = join(root, "clients/typescript");

interface Manifest {
  name: string;
  dependencies: Record<string, string>;
}

describe("the client's package", function () {
  this.timeout(120_000);
  const vhost = useVhost();
  let scratch: string;
  let installed: string;
  let manifest: Manifest;

  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "muster-package-"));
    const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", scratch], { cwd: packageDirectory });
    const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf("["))) as [{ filename: string }];
    installed = join(scratch, "node_modules/@muster/client");
    await mkdir(installed, { recursive: true });
    await run("tar", ["-xzf", join(scratch, filename), "-C", installed, "--strip-components=1"]);
    manifest = JSON.parse(await readFile(join(installed, "package.json"), "utf8")) as Manifest;
    // As npm would, but from what is here: these tests need no network.
    for (const name of [...Object.keys(manifest.dependencies), "@types/node"]) {
      await mkdir(dirname(join(scratch, "node_modules", name)), { recursive: true });
      await symlink(join(root, "node_modules", name), join(scratch, "node_modules", name));
    }
    await writeFile(join(scratch, "package.json"), JSON.stringify({ type: "module", private: true }));
    const readme = await readFile(join(installed, "README.md"), "utf8");
    for (const [, name, program] of readme.matchAll(/^```ts\n\/\/ (\S+)\n([\s\S]*?)^```$/gm)) {
      await writeFile(join(scratch, String(name)), String(program));
    }
    const compilerOptions = {
      strict: true,
      target: "es2023",
      module: "nodenext",
      types: ["node"],
      exactOptionalPropertyTypes: true,
    };
    await writeFile(join(scratch, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  });
  after(async () => await rm(scratch, { recursive: true }));

  it("holds the code, its types and its README, and nothing else", async () => {
    const top = await readdir(installed);
    expect(top).to.have.members(["LICENSE", "README.md", "dist", "package.json"]);
    const files = (await readdir(join(installed, "dist"), { recursive: true })).filter((file) => file.includes("."));
    expect(files.filter((file) => !/\.(js|d\.ts)$/.test(file))).to.deep.equal([]);
    expect(files.filter((file) => file.startsWith("config-db/") && file.endsWith(".js"))).to.have.members([
      "config-db/errors.js",
      "config-db/generated/types.js",
      "config-db/json-tree.js",
      "config-db/limits.js",
      "config-db/names.js",
      "config-db/time-limit.js",
    ]);
  });

  it("declares what it imports, no more and no less", async () => {
    const imported = new Set<string>();
    const files = await readdir(join(installed, "dist"), { recursive: true });
    for (const file of files.filter((name) => name.endsWith(".js"))) {
      const text = await readFile(join(installed, "dist", file), "utf8");
      for (const [, from] of text.matchAll(/from "([^"]+)"/g)) imported.add(String(from));
    }
    const packages = [...imported]
      .filter((from) => !from.startsWith(".") && !from.startsWith("node:") && !builtinModules.includes(from))
      .map((from) =>
        from
          .split("/")
          .slice(0, from.startsWith("@") ? 2 : 1)
          .join("/"),
      );
    expect(Object.keys(manifest.dependencies)).to.have.members([...new Set(packages)]);
  });

  it("type-checks from outside, with its own types checked too", async () => {
    const tsc = join(root, "node_modules/.bin/tsc");
    const { stdout } = await run(tsc, ["-p", scratch], { cwd: scratch }).catch((error: { stdout: string }) => error);
    expect(stdout).to.equal("");
  });

  describe("in the README's programs", () => {
    let coordinator: RunningCoordinator;
    const running: ProcessGroup[] = [];
    before(async () => {
      const args = ["--amqp-management-url", vhost.managementUrl];
      coordinator = await startCoordinator({ amqpUrl: vhost.url, args });
    });
    after(async () => {
      await Promise.all(running.map((group) => group.end(10_000)));
      await coordinator?.close();
    });

    async function start(program: string): Promise<{ output: () => string; group: ProcessGroup }> {
      const env = {
        ...process.env,
        MUSTER_URL: coordinator.url,
        MUSTER_COMPONENT_ID: `${program}-${randomUUID().slice(0, 8)}`,
        XDG_CACHE_HOME: scratch,
      };
      const group = await startGroup(process.execPath, [join(scratch, `${program}.js`)], {
        cwd: scratch,
        env,
        stdio: ["ignore", "pipe", "pipe"],
      });
      running.push(group);
      let text = "";
      for (const stream of [group.child.stdout, group.child.stderr]) {
        stream?.on("data", (chunk: Buffer) => {
          text += chunk.toString();
        });
      }
      return { output: () => text, group };
    }

    it("serves, is used, and leaves", async () => {
      const thermometer = await start("thermometer");
      await eventually(() => expect(thermometer.output()).to.match(/is online, its messages go by amqp/), {
        timeoutMs: 30_000,
      });
      const reader = await start("reader");
      expect(await reader.group.exited, reader.output()).to.equal("exit code 0");
      const lines = reader.output().trim().split("\n");
      expect(lines).to.deep.equal([
        "there are 1 thermometers",
        "it is 21.4 celsius",
        lines[2]?.replace(/: .*/, ": done"),
        "there is no barometer",
        "its figures are at http://10.0.0.7:9100/metrics",
      ]);
      await thermometer.group.end(10_000);
      expect(await thermometer.group.exited).to.equal("exit code 0");
    });
  });
});
