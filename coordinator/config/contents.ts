/**
 * The bytes of raw content: the attachment of one document per content, under their hash.
 *
 * Every use is a revision of its own. A site that knows of no use deletes the revisions that it knows; of what another one
 * used meanwhile a live revision is left beside that tombstone, and a live one stands.
 */
import { isMusterError } from "../../config-db/errors.ts";
import type { ContentList } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import type { Database, Document } from "../../config-db/store.ts";

export interface ContentsOptions {
  database: Database<Document>;
  site: string;
  wallClock(): Date;
}

type ContentDocument = Document & { _attachments?: Record<string, { length?: number }> };

/** The attachment that holds the bytes. */
const attachment = "data";
/** Others use or delete the same bytes at the same moment: so often at most. */
const attemptsMax = 20;

export class Contents {
  readonly #options: ContentsOptions;

  constructor(options: ContentsOptions) {
    this.#options = options;
  }

  /** Marks the bytes as used, and stores them where they are not there. */
  async keep(sha256: string, bytes: Buffer): Promise<void> {
    await this.#use(sha256, bytes);
  }

  /** Marks the bytes of these files as used, as far as they are there. */
  async use(files: ContentList = {}): Promise<void> {
    for (const sha256 of new Set(Object.values(files).map((about) => about.sha256))) await this.#use(sha256);
  }

  /** @returns undefined where they are not there. */
  async read(sha256: string): Promise<Buffer | undefined> {
    return this.#options.database.getAttachment(documentId.content(sha256), attachment);
  }

  /** How many bytes these are; undefined where they are not there. */
  async sizeBytes(sha256: string): Promise<number | undefined> {
    const stored = await this.#options.database.get<ContentDocument>(documentId.content(sha256));
    return stored?._attachments?.[attachment]?.length;
  }

  async #use(sha256: string, bytes?: Buffer): Promise<void> {
    const { database, site, wallClock } = this.#options;
    const _id = documentId.content(sha256);
    for (let attempt = 1; ; attempt++) {
      const stored = await database.get<ContentDocument>(_id);
      const data = stored?._attachments?.[attachment] ?? (bytes && inline(bytes));
      if (data === undefined) return;
      const doc: ContentDocument = {
        ...stored,
        ...{ _id, kind: "content", schemaVersion: 1, sha256, usedAt: wallClock().toISOString(), site },
        ...(bytes && { sizeBytes: bytes.length }),
        _attachments: { [attachment]: data },
      };
      try {
        await database.put(doc);
        return;
      } catch (error) {
        if (!isMusterError(error, "conflict") || attempt >= attemptsMax) throw error;
      }
    }
  }
}

function inline(bytes: Buffer): object {
  return { content_type: "application/octet-stream", data: bytes.toString("base64") };
}
