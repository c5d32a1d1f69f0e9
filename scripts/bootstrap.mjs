/**
 * From a fresh clone to TypeScript: installs what is missing, then runs `main(argv)` of a TypeScript file in this very
 * process. One process, so that there is one to signal.
 */
import { ensurePackages } from "./packages.mjs";

/** @param {string} entry a file beside this one that exports `main` */
export async function bootstrap(entry) {
  try {
    await ensurePackages();
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
  const { register } = await import("tsx/esm/api");
  register();
  process.setSourceMapsEnabled(true);
  const { main } = await import(entry);
  await main(process.argv.slice(2));
}
