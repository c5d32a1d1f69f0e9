/** `_bulk_docs` and `_bulk_get`: many documents in one request. */
import type { PouchDB } from "pouchdb";
import { badRequest, toCouchError } from "./couch-error.ts";
import type { Database } from "./database.ts";
import { checkDocument, checkId } from "./document-input.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { requireRevision } from "./revisions.ts";
import { inWireOrder } from "./wire-order.ts";
import { write } from "./writes.ts";

export async function writeBulk(exchange: Exchange, database: Database, pouch: PouchDB.Database): Promise<void> {
  const { docs, new_edits: newEdits = true } = exchange.object();
  if (docs === undefined) throw badRequest("POST body must include `docs` parameter.");
  if (!Array.isArray(docs)) throw badRequest("`docs` parameter must be an array.");
  if (typeof newEdits !== "boolean") throw badRequest("`new_edits` parameter must be a boolean.");
  const checked = docs.map((doc) => checkDocument(doc, newEdits, database.revisionLimit));
  const written = await write(database, pouch, checked, { newEdits, user: exchange.user });
  const rows = written.map(({ id, rev, failure }) => {
    if (failure === undefined) return { ok: true, id, rev };
    return { id, ...(rev !== undefined && !newEdits && { rev }), ...failure.body };
  });
  // For revisions made elsewhere CouchDB tells failures alone.
  exchange.json(201, newEdits ? rows : rows.filter((row) => "error" in row));
}

interface Wanted {
  id: string;
  rev: string | undefined;
}

export async function readBulk(exchange: Exchange, pouch: PouchDB.Database): Promise<void> {
  const { docs } = exchange.object();
  if (!Array.isArray(docs)) throw badRequest("Missing JSON list of 'docs'.");
  const { query } = exchange;
  const options = {
    revs: query.flag("revs") ?? false,
    latest: query.flag("latest") ?? false,
    attachments: query.flag("attachments") ?? false,
  };
  const results = await Promise.all(
    docs.map(async (wanted) => ({
      id: isObject(wanted) ? wanted.id : null,
      docs: await readOne(pouch, wanted, options),
    })),
  );
  exchange.json(200, { results });
}

/** The rows of one wanted revision: several where `latest` finds several leaves after it, an error where there is none. */
async function readOne(pouch: PouchDB.Database, wanted: unknown, options: JsonObject): Promise<object[]> {
  let parsed: Wanted = { id: "", rev: undefined };
  try {
    parsed = readWanted(wanted);
    const { id, rev } = parsed;
    if (rev === undefined) return [{ ok: inWireOrder(await pouch.get(id, options)) }];
    const found = (await pouch.get(id, { ...options, open_revs: [rev] })) as unknown as { ok?: PouchDB.Doc }[];
    return found.map((row) =>
      row.ok ? { ok: inWireOrder(row.ok) } : { error: { id, rev, error: "not_found", reason: "missing" } },
    );
  } catch (error) {
    return [{ error: { id: parsed.id, rev: parsed.rev ?? "undefined", ...toCouchError(error).body } }];
  }
}

function readWanted(wanted: unknown): Wanted {
  if (!isObject(wanted)) throw badRequest("Each of `docs` must be an object with an `id`");
  const id = checkId(wanted.id);
  return { id, rev: wanted.rev === undefined || wanted.rev === "" ? undefined : requireRevision(wanted.rev) };
}
