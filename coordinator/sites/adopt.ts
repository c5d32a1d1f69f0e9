/**
 * A site whose store was deleted and is built anew: its peers still have its record. Taken over before anyone leads, it
 * keeps the epoch rising; without it the site would begin at the first one again, and find itself overruled by its own past
 * as soon as it replicates.
 */
import { databases, documentId } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../settings.ts";
import { installIdentity, probe } from "./identity.ts";
import { Peers } from "./peers.ts";

/** A peer that is away must not hold up a start: then the site waits for its own silence later, some 20 s. */
const waitMs = 5_000;

/** Fetches the record of our site from the peers, where our store has none. Never fails for a peer. */
export async function adoptSiteRecord(store: Store, site: string, settings: PeerSetting[]): Promise<void> {
  const id = documentId.site(site);
  const database = store.database<Document>(databases.registry);
  if ((await database.branches(id)).length > 0) return;
  const own = await installIdentity(store, site);
  const ask = async ({ name, couchdbUrl }: PeerSetting): Promise<Document[]> => {
    const peer = new Store(couchdbUrl);
    const { found } = await probe(peer, name, own);
    return found === "site" ? peer.database<Document>(databases.registry).branches(id) : [];
  };
  const peers = await new Peers(store, settings).list();
  const late = new Promise<Document[]>((resolve) => setTimeout(resolve, waitMs, []).unref());
  const asked = peers.map((peer) => Promise.race([ask(peer).catch(() => []), late]));
  for (const docs of await Promise.all(asked)) await database.bulk(docs, { newEdits: false });
}
