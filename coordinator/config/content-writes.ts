/**
 * Raw content of any media type beside a layer's settings. The bytes are kept once per content, under their hash: so a
 * layer's revisions, its history and rollbacks name them without carrying them.
 */
import { createHash } from "node:crypto";
import { MusterError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import type { LayerName } from "../../config-db/names.ts";
import type { WriteContext, WritesOptions } from "./guarded-write.ts";
import type { LayerWrites } from "./layer-writes.ts";
import type { StoredLayer } from "./records.ts";

export interface ContentFile {
  contentType: string;
  sha256: string;
  bytes: Buffer;
}

const filesMax = 64;
const filePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
/** RFC 9110 §8.3.1; parameters as they are. */
const mediaTypePattern = /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(\s*;[\x20-\x7e]*)?$/;

export class ContentWrites {
  readonly #options: WritesOptions;
  readonly #layers: LayerWrites;

  constructor(options: WritesOptions, layers: LayerWrites) {
    this.#options = options;
    this.#layers = layers;
  }

  /**
   * Adds or replaces a file: a new version of the layer, which it makes where there is none.
   * @throws MusterError `invalid-request` for a bad name or media type, `too-large`, `refused` for one file too many, else as
   * a layer's write
   */
  async put(
    layer: LayerName,
    file: string,
    { contentType, bytes }: { contentType: string; bytes: Buffer },
    context: WriteContext,
  ): Promise<StoredLayer> {
    checkFile(file);
    checkContentType(contentType);
    if (bytes.length > limits.bodyBytes) {
      throw new MusterError("too-large", `the file has ${bytes.length} bytes; at most ${limits.bodyBytes}`);
    }
    const { contents } = this.#options;
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    const about = { contentType, sha256, sizeBytes: bytes.length };
    const written = await this.#layers.write(
      layer,
      { ...context, note: context.note ?? `content ${file}` },
      async (stored) => {
        const content = { ...stored?.content, [file]: about };
        if (Object.keys(content).length > filesMax) {
          throw new MusterError(
            "refused",
            `"${file}" would be one file too many: layer ${layer} has ${filesMax}, the most there may be; DELETE one first`,
          );
        }
        // The bytes first: a layer never names what is not there.
        await contents.keep(sha256, bytes);
        return { settings: stored?.settings ?? {}, content };
      },
    );
    // Again: a site that got the bytes and was cut off before it got the layer deletes them, but not this use of them.
    await contents.keep(sha256, bytes);
    return written;
  }

  /** @throws MusterError `not-found`, else as a layer's write */
  async delete(layer: LayerName, file: string, context: WriteContext): Promise<void> {
    await this.#layers.write(layer, { ...context, note: `without content ${file}` }, (stored) => {
      if (stored?.content === undefined || !Object.hasOwn(stored.content, file)) throw noSuchFile(layer, file);
      const { [file]: _, ...content } = stored.content;
      return Object.keys(content).length === 0 ? { settings: stored.settings } : { settings: stored.settings, content };
    });
  }

  /** @throws MusterError `not-found` */
  async read(layer: LayerName, file: string): Promise<ContentFile> {
    const { records, contents } = this.#options;
    const content = records.layer(layer)?.content;
    const about = content !== undefined && Object.hasOwn(content, file) ? content[file] : undefined;
    if (about === undefined) throw noSuchFile(layer, file);
    const bytes = await contents.read(about.sha256);
    if (bytes === undefined) {
      throw new MusterError("not-found", `the bytes of ${file} of layer ${layer} have not been replicated here yet`, {
        retryAfterMs: 1_000,
      });
    }
    return { contentType: about.contentType, sha256: about.sha256, bytes };
  }
}

/** @throws MusterError `invalid-request` */
export function checkContentType(contentType: string): void {
  if (contentType.length <= 200 && mediaTypePattern.test(contentType)) return;
  throw new MusterError("invalid-request", `Content-Type "${contentType.slice(0, 200)}" is no media type`);
}

function checkFile(file: string): void {
  if (filePattern.test(file)) return;
  throw new MusterError("invalid-request", `"${file.slice(0, 100)}" cannot name a file: ${filePattern.source}`);
}

function noSuchFile(layer: LayerName, file: string): MusterError {
  return new MusterError("not-found", `layer ${layer} has no content "${file.slice(0, 100)}"`);
}
