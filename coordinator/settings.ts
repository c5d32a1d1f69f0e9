/**
 * The settings of a site's coordinator: flags, then `MUSTER_*` environment, then a file, then defaults.
 * All are read here and nowhere else; an unknown or bad one is an error that names it.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { type FieldError, MusterError } from "../config-db/errors.ts";
import { idPattern } from "../config-db/names.ts";

export interface PeerSetting {
  name: string;
  couchdbUrl: string;
  amqpUrl?: string;
}

export interface Settings {
  site: string;
  httpHost: string;
  httpPort: number;
  /** How others reach the bridge; the bound address unless set. */
  publicUrl?: string;
  dataDir: string;
  /** A real CouchDB; absent: the embedded one. */
  couchdbUrl?: string;
  couchdbHost: string;
  couchdbPort: number;
  /** How peers and components reach the site's CouchDB; `couchdbUrl` unless set. Never holds credentials. */
  couchdbPublicUrl?: string;
  /** The broker; absent: a private node of the start script's, or none (a station). */
  amqpUrl?: string;
  amqpPort: number;
  /** `off`: there is none. */
  amqpManagementUrl?: string;
  queueSettleMs: number;
  peers: PeerSetting[];
  auth: "off" | "token";
  operatorToken?: string;
  secretKey?: Buffer;
  logLevel: string;
}

interface Setting {
  description: string;
  default?: string;
  /** @throws Error that says what would be right. */
  parse(text: string): unknown;
}

const port: Setting["parse"] = (text) => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 65_535) throw new Error("must be a port from 0 to 65535");
  return value;
};
const url =
  (...protocols: string[]): Setting["parse"] =>
  (text) => {
    if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol.slice(0, -1))) {
      throw new Error(`must be a URL that starts with ${protocols.map((name) => `${name}://`).join(" or ")}`);
    }
    return text.replace(/\/$/, "");
  };
const milliseconds =
  (min: number, max: number): Setting["parse"] =>
  (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max)
      throw new Error(`must be milliseconds from ${min} to ${max}`);
    return value;
  };
const oneOf =
  (...words: string[]): Setting["parse"] =>
  (text) => {
    if (!words.includes(text)) throw new Error(`must be one of ${words.join(", ")}`);
    return text;
  };
const anything: Setting["parse"] = (text) => {
  if (text === "") throw new Error("must not be empty");
  return text;
};
const id: Setting["parse"] = (text) => {
  if (!idPattern.test(text)) throw new Error(`must match ${idPattern.source}`);
  return text;
};
const key: Setting["parse"] = (text) => {
  const bytes = Buffer.from(text.trim(), "base64");
  if (bytes.length !== 32) throw new Error("must be 32 bytes in base64; make one with: openssl rand -base64 32");
  return bytes;
};
const peers: Setting["parse"] = (text) =>
  text
    .split(";")
    .filter((part) => part.trim() !== "")
    .map((part): PeerSetting => {
      const [name, rest] = [part.slice(0, part.indexOf("=")).trim(), part.slice(part.indexOf("=") + 1)];
      const [couchdbUrl, amqpUrl] = rest.split(",").map((piece) => piece.trim());
      if (!part.includes("=") || couchdbUrl === undefined)
        throw new Error("must be name=couchUrl[,amqpUrl], with ; between");
      id(name);
      const peer = { name, couchdbUrl: url("http", "https")(couchdbUrl) as string };
      return amqpUrl === undefined ? peer : { ...peer, amqpUrl: url("amqp", "amqps")(amqpUrl) as string };
    });

/** Every setting by its flag; the variable is `MUSTER_` and the same in capitals. */
const settings: Record<string, Setting> = {
  site: { description: "this site's name", default: "local", parse: id },
  "http-host": { description: "address the bridge binds", default: "127.0.0.1", parse: anything },
  "http-port": { description: "port of the bridge; 0 takes a free one", default: "8080", parse: port },
  "public-url": {
    description: "how others reach the bridge, when not at the address it binds",
    parse: url("http", "https"),
  },
  "data-dir": { description: "all that this site keeps on disk", default: ".muster", parse: anything },
  "couchdb-url": {
    description: "a CouchDB 3.x, credentials in the URL; else the embedded one",
    parse: url("http", "https"),
  },
  "couchdb-host": { description: "address the embedded config database binds", default: "127.0.0.1", parse: anything },
  "couchdb-port": { description: "port of the embedded config database", default: "5984", parse: port },
  "couchdb-public-url": { description: "how others reach this site's CouchDB", parse: url("http", "https") },
  "amqp-url": { description: "the broker, credentials in the URL; else a private node", parse: url("amqp", "amqps") },
  "amqp-port": { description: "port of the private broker node", default: "5672", parse: port },
  "amqp-management-url": {
    description: "the broker's management API, for policies; off when it has none",
    parse: (text) => (text === "off" ? text : url("http", "https")(text)),
  },
  "queue-settle-ms": {
    description: "age at which a new queue takes commands: a younger one can be lost with a broker of one node",
    default: "1100",
    parse: milliseconds(0, 60_000),
  },
  peers: { description: "other sites: name=couchUrl[,amqpUrl], with ; between", default: "", parse: peers },
  auth: { description: "token, or off (loopback only)", parse: oneOf("token", "off") },
  "operator-token": {
    description: "the operator's token; generated into the data directory when absent",
    parse: anything,
  },
  "secret-key": { description: "32 bytes in base64 that encrypt secrets", parse: key },
  "secret-key-file": { description: "a file with the secret key", parse: (path) => key(readFileSync(path, "utf8")) },
  "log-level": {
    description: "logging threshold",
    default: "info",
    parse: oneOf("silent", "fatal", "error", "warn", "info", "debug", "trace"),
  },
};

/** Variables that are not settings of a coordinator but belong to Muster: clients and the test run read them. */
const foreign = /^MUSTER_(URL|COMPONENT_ID|TOKEN|SETTINGS_FILE|TEST_.*|DEMO_.*)$/;

export const variableOf = (flag: string) => `MUSTER_${flag.toUpperCase().replaceAll("-", "_")}`;

/** The settings' part of a `--help`. */
export function settingsHelp(): string {
  const rows = Object.entries(settings).map(([flag, { description, default: fallback }]) => {
    const shown = fallback === undefined || fallback === "" ? "" : ` (default ${fallback})`;
    return `  --${flag.padEnd(20)} ${variableOf(flag).padEnd(28)} ${description}${shown}`;
  });
  return [
    ...rows,
    `  --${"settings-file".padEnd(20)} ${"MUSTER_SETTINGS_FILE".padEnd(28)} a JSON file with any of these, by flag name`,
  ].join("\n");
}

/** The same as rows of a Markdown table: docs/operations.md has them. */
export function settingsTable(): string {
  return Object.entries(settings)
    .map(([flag, { description, default: fallback }]) => {
      const shown = fallback === undefined || fallback === "" ? "" : `\`${fallback}\``;
      return `| \`--${flag}\` | \`${variableOf(flag)}\` | ${shown} | ${description} |`;
    })
    .join("\n");
}

/**
 * Reads and checks all settings.
 * @throws MusterError `invalid-request` that names every bad or unknown setting and where it came from.
 */
export function readSettings(argv: string[], env: NodeJS.ProcessEnv): Settings {
  const errors: FieldError[] = [];
  const flags = readFlags(argv, errors);
  const file = readFile(flags["settings-file"] ?? env.MUSTER_SETTINGS_FILE, errors);
  for (const name of Object.keys(env)) {
    const known = Object.keys(settings).some((flag) => variableOf(flag) === name) || foreign.test(name);
    if (name.startsWith("MUSTER_") && !known) errors.push({ pointer: name, message: "is no setting" });
  }

  const values: Record<string, unknown> = {};
  for (const [flag, setting] of Object.entries(settings)) {
    const given: [string, string | undefined][] = [
      [`--${flag}`, flags[flag]],
      [variableOf(flag), env[variableOf(flag)] === "" ? undefined : env[variableOf(flag)]],
      [`"${flag}" in the settings file`, file[flag]],
      ["default", setting.default],
    ];
    const found = given.find(([, text]) => text !== undefined);
    if (found === undefined) continue;
    const [source, text] = found as [string, string];
    try {
      values[flag.replaceAll(/-(\w)/g, (_all, letter: string) => letter.toUpperCase())] = setting.parse(text);
    } catch (error) {
      const secret = /token|key/.test(flag) || text.includes("@");
      errors.push({ pointer: source, message: `${(error as Error).message}${secret ? "" : `, got "${text}"`}` });
    }
  }
  return errors.length === 0 ? complete(values, errors) : fail(errors);
}

/** The rules between settings. */
function complete(values: Record<string, unknown>, errors: FieldError[]): Settings {
  const { secretKeyFile, ...read } = values as unknown as Settings & { secretKeyFile?: Buffer };
  const loopback = ["127.0.0.1", "::1", "localhost"].includes(read.httpHost);
  const auth = read.auth ?? (loopback && read.operatorToken === undefined ? "off" : "token");
  if (auth === "off" && !loopback) {
    errors.push({
      pointer: "MUSTER_AUTH",
      message: `off is allowed on loopback only, and MUSTER_HTTP_HOST is ${read.httpHost}; use token`,
    });
  }
  const names = [read.site, ...read.peers.map((peer) => peer.name)];
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined)
    errors.push({ pointer: "MUSTER_PEERS", message: `two sites cannot both be called ${twice}` });
  if (errors.length > 0) fail(errors);
  const secretKey = read.secretKey ?? secretKeyFile;
  return {
    ...read,
    auth,
    ...(secretKey === undefined ? {} : { secretKey }),
    ...(auth === "token" ? { operatorToken: read.operatorToken ?? keptToken(read.dataDir) } : {}),
  };
}

/** The generated token outlives restarts: scripts that hold it go on working. */
function keptToken(dataDir: string): string {
  const path = join(dataDir, "operator-token");
  if (!existsSync(path)) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, randomBytes(24).toString("base64url"), { mode: 0o600 });
  }
  return readFileSync(path, "utf8").trim();
}

function readFlags(argv: string[], errors: FieldError[]): Record<string, string> {
  const options = Object.fromEntries(
    [...Object.keys(settings), "settings-file"].map((flag) => [flag, { type: "string" as const }]),
  );
  try {
    return parseArgs({ args: argv, options, strict: true, allowPositionals: false }).values as Record<string, string>;
  } catch (error) {
    errors.push({ pointer: "flags", message: (error as Error).message });
    return {};
  }
}

function readFile(path: string | undefined, errors: FieldError[]): Record<string, string> {
  if (path === undefined) return {};
  try {
    const read = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    for (const name of Object.keys(read)) {
      if (!Object.hasOwn(settings, name)) errors.push({ pointer: path, message: `"${name}" is no setting` });
    }
    return Object.fromEntries(Object.entries(read).map(([name, value]) => [name, String(value)]));
  } catch (error) {
    errors.push({ pointer: path, message: `cannot be read as JSON: ${(error as Error).message}` });
    return {};
  }
}

function fail(errors: FieldError[]): never {
  const lines = errors.map(({ pointer, message }) => `${pointer}: ${message}`);
  throw new MusterError(
    "invalid-request",
    `settings are wrong:\n  ${lines.join("\n  ")}\nSee --help for all settings.`,
    { errors },
  );
}
