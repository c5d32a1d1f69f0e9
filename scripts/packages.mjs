/**
 * Brings the npm packages up to the lock file, before anything else can be imported: plain JavaScript on Node alone.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stillEveryMs = 5000;

/**
 * Packages of the lock file that are not installed in its version. Times of files would be simpler and say nothing:
 * a checkout touches the lock file, and an interrupted install leaves a new folder.
 */
export function missingPackages(folder = root) {
  const wanted = readPackages(join(folder, "package-lock.json"));
  const installed = readPackages(join(folder, "node_modules", ".package-lock.json"));
  return Object.keys(wanted).filter((path) => {
    // Optional ones are for other platforms; links and the root are folders of this repository.
    const { version, optional, peer, link } = wanted[path];
    if (!path.includes("node_modules/") || optional || peer || link) return false;
    return installed[path]?.version !== version;
  });
}

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8")).packages ?? {};
  } catch {
    return {};
  }
}

/** Runs `npm ci` when a package is missing. Rejects with what npm said when that fails. */
export async function ensurePackages(folder = root) {
  const missing = missingPackages(folder);
  if (missing.length === 0) return;
  const startedAt = Date.now();
  const seconds = () => `${((Date.now() - startedAt) / 1000).toFixed(1)} s`;
  console.log(`npm packages: installing, ${missing.length} are missing`);
  const still = setInterval(() => console.log(`npm packages: still installing, ${seconds()}`), stillEveryMs);
  try {
    await npmCi(folder);
  } finally {
    clearInterval(still);
  }
  console.log(`npm packages: installed in ${seconds()}`);
}

async function npmCi(folder) {
  // Under NODE_ENV=production npm would leave out the tools that the tests and the types need.
  const { NODE_ENV: _unset, ...env } = process.env;
  const [command, first] = env.npm_execpath ? [process.execPath, [env.npm_execpath]] : ["npm", []];
  const args = [...first, "ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"];
  const child = spawn(command, args, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  const end = (signal) => child.kill(signal);
  process.on("SIGINT", end).on("SIGTERM", end);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      output = (output + text).slice(-4000);
    });
  }
  const how = await new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (code, signal) => resolve(signal ?? code));
  });
  process.off("SIGINT", end).off("SIGTERM", end);
  if (how !== 0)
    throw new Error(`npm ci failed (${how}). Check the network and the registry, then start again.\n${output}`);
}
