import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
// @ts-expect-error plain JavaScript, since it runs before TypeScript can
import { missingPackages } from "../../scripts/packages.mjs";

describe("missing packages", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "muster-packages-"));
    mkdirSync(join(folder, "node_modules"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const lock = (packages: object) => writeFileSync(join(folder, "package-lock.json"), JSON.stringify({ packages }));
  const installed = (packages: object) =>
    writeFileSync(join(folder, "node_modules/.package-lock.json"), JSON.stringify({ packages }));

  it("are none when each is installed in the version of the lock file", () => {
    lock({ "": { name: "root" }, "node_modules/a": { version: "1.0.0" } });
    installed({ "node_modules/a": { version: "1.0.0" } });
    expect(missingPackages(folder)).to.deep.equal([]);
  });

  it("are those that are not there or have another version", () => {
    lock({ "node_modules/a": { version: "1.0.0" }, "node_modules/a/node_modules/b": { version: "2.0.0" } });
    installed({ "node_modules/a": { version: "0.9.0" } });
    expect(missingPackages(folder)).to.deep.equal(["node_modules/a", "node_modules/a/node_modules/b"]);
  });

  it("are all of them on a fresh clone", () => {
    lock({ "node_modules/a": { version: "1.0.0" } });
    expect(missingPackages(folder)).to.deep.equal(["node_modules/a"]);
  });

  it("are no optional ones, which are for other platforms, and no folders of this repository", () => {
    lock({
      "node_modules/mac": { version: "1.0.0", optional: true },
      "node_modules/client": { resolved: "clients/typescript", link: true },
      "clients/typescript": { version: "0.1.0" },
    });
    installed({});
    expect(missingPackages(folder)).to.deep.equal([]);
  });
});
