import { readFileSync } from "node:fs";
import { expect } from "chai";
import { errorCodes } from "../../config-db/errors.ts";
import { settingsTable } from "../../coordinator/settings.ts";

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

describe("docs/errors.md", () => {
  it("has every error code with its status, and no other", () => {
    const rows = [...read("docs/errors.md").matchAll(/^\| `([a-z-]+)` \| (\d+) \|/gm)];
    const documented = Object.fromEntries(rows.map(([, code, status]) => [code, Number(status)]));
    const real = Object.fromEntries(Object.entries(errorCodes).map(([code, { status }]) => [code, status]));
    expect(documented).to.deep.equal(real);
  });
});

describe("docs/operations.md", () => {
  it("has every setting with its variable and default, as --help tells them", () => {
    const rows = read("docs/operations.md")
      .split("\n")
      .filter((line) => line.startsWith("| `--"));
    expect(rows).to.deep.equal(settingsTable().split("\n"));
  });
});
