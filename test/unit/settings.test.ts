import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { readSettings, settingsHelp, variableOf } from "../../coordinator/settings.ts";

describe("the settings", () => {
  const directory = mkdtempSync(join(tmpdir(), "muster-settings-"));
  after(() => rmSync(directory, { recursive: true }));

  it("have the documented defaults", () => {
    const { site, httpHost, httpPort, dataDir, couchdbPort, amqpPort, auth, peers } = readSettings([], {});
    expect({ site, httpHost, httpPort, dataDir, couchdbPort, amqpPort, auth, peers }).to.deep.equal({
      site: "local",
      httpHost: "127.0.0.1",
      httpPort: 8080,
      dataDir: ".muster",
      couchdbPort: 5984,
      amqpPort: 5672,
      auth: "off",
      peers: [],
    });
  });

  it("come from flags before environment before file before defaults", () => {
    const file = join(directory, "settings.json");
    writeFileSync(file, JSON.stringify({ site: "from-file", "http-port": 1, "couchdb-port": 2 }));
    const env = { MUSTER_SETTINGS_FILE: file, MUSTER_HTTP_PORT: "3", MUSTER_COUCHDB_PORT: "4" };
    const { site, httpPort, couchdbPort, amqpPort } = readSettings(["--couchdb-port", "5"], env);
    expect([site, httpPort, couchdbPort, amqpPort]).to.deep.equal(["from-file", 3, 5, 5672]);
  });

  it("read peers with and without a broker", () => {
    const { peers } = readSettings([], { MUSTER_PEERS: "a=http://a:5984,amqp://a;b=https://b/" });
    expect(peers).to.deep.equal([
      { name: "a", couchdbUrl: "http://a:5984", amqpUrl: "amqp://a" },
      { name: "b", couchdbUrl: "https://b" },
    ]);
  });

  const wrong: [string, string[], NodeJS.ProcessEnv, RegExp][] = [
    ["an unknown variable", [], { MUSTER_HTTP_PROT: "1" }, /MUSTER_HTTP_PROT: is no setting/],
    ["an unknown flag", ["--prot", "1"], {}, /--prot/],
    [
      "a port out of range",
      [],
      { MUSTER_HTTP_PORT: "65536" },
      /MUSTER_HTTP_PORT: must be a port from 0 to 65535, got "65536"/,
    ],
    ["a site that cannot be an id", ["--site", "Ä"], {}, /--site: must match/],
    [
      "a URL of another protocol",
      [],
      { MUSTER_AMQP_URL: "http://x" },
      /MUSTER_AMQP_URL: must be a URL that starts with amqp/,
    ],
    ["no authentication beyond loopback", [], { MUSTER_HTTP_HOST: "0.0.0.0", MUSTER_AUTH: "off" }, /loopback only/],
    [
      "two sites of one name",
      [],
      { MUSTER_SITE: "a", MUSTER_PEERS: "a=http://x" },
      /two sites cannot both be called a/,
    ],
    ["a secret key of the wrong length", [], { MUSTER_SECRET_KEY: "c2hvcnQ=" }, /32 bytes in base64/],
    ["a settings file that is not there", ["--settings-file", "/nowhere"], {}, /nowhere: cannot be read/],
  ];
  for (const [what, argv, env, message] of wrong) {
    it(`refuse ${what} by name`, () => {
      expect(() => readSettings(argv, env)).to.throw(message);
    });
  }

  it("name every fault at once, and no credentials", () => {
    const env = { MUSTER_HTTP_PORT: "x", MUSTER_COUCHDB_URL: "ftp://user:hunter2@host" };
    expect(() => readSettings([], env))
      .to.throw(/MUSTER_HTTP_PORT[\s\S]*MUSTER_COUCHDB_URL/)
      .with.property("message")
      .not.include("hunter2");
  });

  it("keep a generated token for the next start, readable by its owner alone", () => {
    const env = { MUSTER_AUTH: "token", MUSTER_DATA_DIR: directory };
    const { operatorToken } = readSettings([], env);
    expect(operatorToken).to.have.length.greaterThan(30);
    expect(readSettings([], env).operatorToken).to.equal(operatorToken);
    expect(readFileSync(join(directory, "operator-token"), "utf8")).to.equal(operatorToken);
  });

  it("are all in the help with their variables", () => {
    const help = settingsHelp();
    for (const flag of ["site", "http-port", "couchdb-url", "peers", "secret-key-file"]) {
      expect(help).to.include(`--${flag}`).and.include(variableOf(flag));
    }
  });
});
