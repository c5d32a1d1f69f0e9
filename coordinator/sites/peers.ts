/**
 * The other sites to replicate with: those of the settings and those that operators named. The latter are documents
 * `peer:<name>` in muster-commands, which is not replicated and no component reads: their URLs hold credentials. Each
 * counts over the setting of the same name, also to say that there is none.
 */
import type { SitePeer } from "../../config-db/generated/types.ts";
import { databases, documentId } from "../../config-db/names.ts";
import type { Database, Document, Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../settings.ts";

export interface PeerDocument extends Document {
  kind: "peer";
  schemaVersion: 1;
  name: string;
  couchdbUrl?: string;
  amqpUrl?: string;
  /** Taken out by an operator, though a setting may name it. */
  removed?: true;
}

/** The peers that count. Pure. */
export function mergePeers(settings: PeerSetting[], documents: PeerDocument[]): PeerSetting[] {
  const peers = new Map(settings.map((peer) => [peer.name, peer]));
  for (const { name, couchdbUrl, amqpUrl, removed } of documents) {
    if (removed === true || couchdbUrl === undefined) peers.delete(name);
    else peers.set(name, { name, couchdbUrl, ...(amqpUrl === undefined ? {} : { amqpUrl }) });
  }
  return [...peers.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

export class Peers {
  readonly #settings: PeerSetting[];
  readonly #database: Database<PeerDocument>;

  constructor(store: Store, settings: PeerSetting[]) {
    this.#settings = settings;
    this.#database = store.database<PeerDocument>(databases.commands);
  }

  async list(): Promise<PeerSetting[]> {
    return mergePeers(this.#settings, await this.#database.list(documentId.peer("")));
  }

  /** @throws MusterError `conflict` when another coordinator changes the same peer at once */
  async put({ name, couchdbUrl, amqpUrl }: SitePeer): Promise<void> {
    await this.#write(name, {
      couchdbUrl: couchdbUrl.replace(/\/$/, ""),
      ...(amqpUrl === undefined ? {} : { amqpUrl }),
    });
  }

  async remove(name: string): Promise<void> {
    await this.#write(name, { removed: true });
  }

  async #write(name: string, content: Partial<PeerDocument>): Promise<void> {
    const _id = documentId.peer(name);
    const stored = await this.#database.get(_id);
    const revision = stored === undefined ? {} : { _rev: stored._rev };
    await this.#database.put({ _id, ...revision, kind: "peer", schemaVersion: 1, name, ...content });
  }
}
