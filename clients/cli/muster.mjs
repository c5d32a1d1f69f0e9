#!/usr/bin/env node
/** The `muster` command: lets Node read TypeScript, then runs main.ts. Plain JavaScript, for it comes before tsx. */
import { register } from "tsx/esm/api";

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`muster needs Node 20.19 or newer, this is ${process.versions.node}\n`);
  process.exit(2);
}
// Without this, tsx would obey a tsconfig.json of the directory that the user happens to stand in.
register({ tsconfig: new URL("../../tsconfig.json", import.meta.url).pathname });
await import("./main.ts");
