/** `npm run bench [-- row …]`: runs the rows whose file name is given, or all, and ends with a summary. */
import { readdirSync } from "node:fs";
import { stopSharedBroker } from "../support/broker.ts";
import { machine, type Row, type RowResult, runRow } from "./harness.ts";

const directory = new URL("./rows/", import.meta.url);
const wanted = process.argv.slice(2);
const files = readdirSync(directory)
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.slice(0, -3));

if (wanted.includes("--help")) {
  console.log(`Usage: npm run bench [-- row …]\n\nRows: ${files.join(", ")}\n\nExample: npm run bench -- config-get`);
} else {
  const unknown = wanted.filter((name) => !files.includes(name));
  if (unknown.length > 0) throw new Error(`no such row: ${unknown.join(", ")}; there are ${files.join(", ")}`);
  console.log(machine());
  const results: RowResult[] = [];
  try {
    for (const file of files.filter((name) => wanted.length === 0 || wanted.includes(name))) {
      const { rows } = (await import(new URL(`${file}.ts`, directory).href)) as { rows: Row[] };
      for (const row of rows) results.push(await runRow(row));
    }
  } finally {
    await stopSharedBroker();
  }
  const missed = results.filter(({ met }) => !met);
  console.log(`\n${results.length - missed.length} of ${results.length} targets met`);
  for (const { row } of missed) console.log(`  missed: ${row.work}`);
}
