import { createHash } from "node:crypto";
import { expect } from "chai";
import { pino } from "pino";
import type { Embedded } from "../../config-db/embedded/server.ts";
import type { MusterError } from "../../config-db/errors.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { isUsable } from "../../coordinator/config/arrival.ts";
import { conflictDocument, type ListedConflict } from "../../coordinator/sites/conflict.ts";
import { Conflicts } from "../../coordinator/sites/conflicts.ts";
import type { ConflictPart } from "../../coordinator/sites/resolve.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { startSiteStore } from "../support/site-store.ts";

type Any = Document & Record<string, unknown>;

/** What an operator may put where sites collided: what an ordinary write may, and nothing that is not theirs to say. */
describe("an answer to a conflict", function () {
  this.timeout(30_000);
  let embedded: Embedded;
  let here: ConfigSite;
  let conflicts: Conflicts;
  let database: ReturnType<Store["database"]>;

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({ storeUrl: embedded.url, secretKey: Buffer.alloc(32, 7) });
    const store = new Store(embedded.url);
    database = store.database<Document>(databases.config);
    const { configuration } = here;
    conflicts = new Conflicts({
      store,
      site: "here",
      leads: () => true,
      isUsable,
      admit: (doc) => configuration.admission.check(doc),
      keepHistory: async () => {},
      written: (id) => configuration.refresh(id),
      logger: pino({ level: "silent" }),
    });
    await conflicts.start();
  });
  after(async () => {
    await conflicts?.close();
    await here?.close();
    await embedded?.close();
  });

  let count = 0;
  /** A type with a component that needs the integer `n` and refers to a secret, and that has a file. */
  async function startType() {
    const type = `answered-${++count}`;
    const file = Buffer.from(`bytes of ${type}`);
    await here.call("PUT", `/v1/config/secrets/${type}`, { value: "one" });
    await here.call("PUT", `/v1/config/layers/type:${type}`, { settings: { n: 1, of: { $secret: type } } });
    await here.call("PUT", `/v1/config/layers/type:${type}/content/f`, file, { "content-type": "text/plain" });
    await here.register(`${type}-1`, { type });
    await here.call("PUT", `/v1/config/schemas/${type}`, { properties: { n: { type: "integer" } }, required: ["n"] });
    const about = {
      contentType: "text/plain",
      sha256: createHash("sha256").update(file).digest("hex"),
      sizeBytes: file.length,
    };
    return { type, about };
  }
  const signature = { version: 1, site: "east", changedBy: "x", changedAt: "2026-01-02T03:04:05Z" };
  async function list(record: string, part: ConflictPart, pointer: string): Promise<ListedConflict> {
    const candidates = ["1-a", "1-b"].map((rev) => ({ rev, ...signature, value: rev }));
    const { _revisions, ...doc } = conflictDocument(record, { part, pointer, candidates });
    await database.bulk([doc], { newEdits: false });
    conflicts.apply([{ id: doc._id, seq: 1, deleted: false, doc: { ...doc } }]);
    return conflicts.list().find((conflict) => conflict.record === record) as ListedConflict;
  }

  type Case = [
    string,
    (named: { type: string; about: object }) => [string, ConflictPart, string, unknown],
    string,
    string?,
  ];
  const refused: Case[] = [
    ["a secret that is in use away", ({ type }) => [`secret:${type}`, "document", "", null], "refused"],
    ["a secret", ({ type }) => [`secret:${type}`, "document", "", { sealed: {} }], "refused"],
    [
      "a schema that breaks a component",
      ({ type }) => [`schema:${type}`, "document", "", { schema: { required: ["z"] } }],
      "refused",
    ],
    [
      "a schema that does not compile",
      ({ type }) => [`schema:${type}`, "document", "", { schema: { type: "wat" } }],
      "refused",
    ],
    [
      "another schema",
      ({ type }) => [`schema:${type}`, "document", "", { schema: {}, _id: "schema:other" }],
      "invalid-request",
      "/value/_id",
    ],
    [
      "a schema of a version",
      ({ type }) => [`schema:${type}`, "document", "", { schema: {}, schemaVersion: 99 }],
      "invalid-request",
      "/value/schemaVersion",
    ],
    [
      "a schema that is none",
      ({ type }) => [`schema:${type}`, "document", "", { schema: 1 }],
      "invalid-request",
      "/schema",
    ],
    [
      "content that is none",
      ({ type }) => [`layer:type:${type}`, "content", "/f", "junk"],
      "invalid-request",
      "/content/f",
    ],
    [
      "content that is not here",
      ({ type, about }) => [`layer:type:${type}`, "content", "/f", { ...about, sha256: "0".repeat(64) }],
      "refused",
      "/content/f",
    ],
    [
      "content of another size",
      ({ type, about }) => [`layer:type:${type}`, "content", "/f", { ...about, sizeBytes: 1 }],
      "refused",
      "/content/f",
    ],
    [
      "content of no media type",
      ({ type, about }) => [`layer:type:${type}`, "content", "/f", { ...about, contentType: "x" }],
      "invalid-request",
    ],
    [
      "a whole layer with content that is none",
      ({ type }) => [`layer:type:${type}`, "document", "", { settings: { n: 1 }, content: "junk" }],
      "invalid-request",
      "/content",
    ],
    [
      "a layer of a version",
      ({ type }) => [`layer:type:${type}`, "document", "", { settings: { n: 1 }, version: 9 }],
      "invalid-request",
      "/value/version",
    ],
    ["a layer that is no object", ({ type }) => [`layer:type:${type}`, "document", "", 5], "invalid-request", "/value"],
    ["a layer that is needed away", ({ type }) => [`layer:type:${type}`, "document", "", null], "refused"],
    ["a setting that breaks a component", ({ type }) => [`layer:type:${type}`, "settings", "/n", "x"], "refused", "/n"],
    ["a setting that nobody may set", ({ type }) => [`layer:type:${type}`, "settings", "/_n", 1], "invalid-request"],
    ["a candidate", ({ type }) => [`candidate:type:${type}`, "document", "", { settings: {} }], "refused"],
  ];
  for (const [what, answerOf, code, pointer] of refused) {
    it(`does not put ${what}`, async () => {
      const named = await startType();
      const { type } = named;
      await here.call("PUT", `/v1/config/layers/type:${type}/candidate`, {
        settings: { n: 2 },
        selector: { percent: 0 },
      });
      const [record, part, at, value] = answerOf(named);
      const before = await database.get(record);
      expect(before).to.not.equal(undefined);
      const { id } = await list(record, part, at);
      const error: MusterError = await conflicts.resolve(id, { value }, "ann").catch((e) => e);
      expect(error.code, String(error)).to.equal(code);
      if (pointer !== undefined) expect(error.errors?.map((each) => each.pointer)).to.include(pointer);
      expect(await database.get(record)).to.deep.equal(before);
      expect(await database.get("schema:other")).to.equal(undefined);
      expect(conflicts.list().map((conflict) => conflict.id)).to.include(id);
    });
  }

  const taken: Case[] = [
    [
      "a schema",
      ({ type }) => [`schema:${type}`, "document", "", { schema: { properties: { n: { minimum: 1 } } } }],
      "schema",
    ],
    ["a setting", ({ type }) => [`layer:type:${type}`, "settings", "/n", 7], "settings"],
    [
      "a file of another media type",
      ({ type, about }) => [`layer:type:${type}`, "content", "/f", { ...about, contentType: "text/css" }],
      "content",
    ],
    [
      "a whole layer",
      ({ type, about }) => [`layer:type:${type}`, "document", "", { settings: { n: 9 }, content: { f: about } }],
      "settings",
    ],
    ["a file away", ({ type }) => [`layer:type:${type}`, "content", "/f", null], "content"],
  ];
  for (const [what, answerOf, field] of taken) {
    it(`puts ${what}, as one version more of the same record`, async () => {
      const named = await startType();
      const [record, part, at, value] = answerOf(named);
      const before = (await database.get(record)) as Any;
      const { id } = await list(record, part, at);
      await conflicts.resolve(id, { value }, "ann");
      const after = (await database.get(record)) as Any;
      const { _id, kind, schemaVersion, layer, type, version } = after;
      expect({ _id, kind, schemaVersion, layer, type, version }).to.deep.equal({
        ...{ _id: before._id, kind: before.kind, schemaVersion: 1, layer: before.layer, type: before.type },
        version: Number(before.version) + 1,
      });
      expect(after[field]).to.not.deep.equal(before[field]);
      expect(conflicts.list().map((conflict) => conflict.id)).to.not.include(id);
    });
  }
});
