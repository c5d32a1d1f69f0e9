/**
 * What a document of the configuration has to pass that was made by none of its writers: an operator's answer to a conflict.
 * The same as an ordinary write of its kind.
 */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import type { ContentList } from "../../config-db/generated/types.ts";
import type { LayerName } from "../../config-db/names.ts";
import type { Document } from "../../config-db/store.ts";
import { type Arrival, arrivalErrors } from "./arrival.ts";
import { checkContentType } from "./content-writes.ts";
import type { WritesOptions } from "./guarded-write.ts";
import { refuseErrors } from "./judgement.ts";
import type { StoredCandidate, StoredLayer, StoredSchema, StoredSecret } from "./records.ts";
import { compileSchema } from "./schema.ts";
import { open } from "./sealing.ts";
import { refuseInUse } from "./secret-writes.ts";

/** A revision that is not there yet. */
const tried = { _rev: "tried" };

export class Admission {
  readonly #options: WritesOptions;
  readonly #secretKey: Buffer | undefined;

  constructor(options: WritesOptions, secretKey: Buffer | undefined) {
    this.#options = options;
    this.#secretKey = secretKey;
  }

  /**
   * @throws MusterError `invalid-request` or `too-large` where it is none of its kind, with pointers into the document;
   * `refused` where it would break a component, take away a secret that is in use, or name content that is not there.
   */
  async check(doc: Document): Promise<void> {
    const arrival: Arrival = { ...doc, ...tried };
    refuseForm(doc._id, arrivalErrors(arrival));
    const { effective } = this.#options;
    const isDeleted = doc._deleted === true;
    const what = `this ${isDeleted ? "deletion" : "value"} of ${doc._id}`;
    switch (arrival.kind) {
      case "layer": {
        const { layer, settings, content } = arrival as unknown as StoredLayer;
        refuseErrors(effective, what, { id: doc._id, content: isDeleted ? undefined : settings });
        if (!isDeleted) await this.#refuseContent(layer as LayerName, content);
        return;
      }
      case "schema": {
        const { schema } = arrival as unknown as StoredSchema;
        if (!isDeleted) compileSchema(schema);
        refuseErrors(effective, what, { id: doc._id, content: isDeleted ? undefined : schema });
        return;
      }
      case "candidate": {
        const candidate = arrival as unknown as StoredCandidate;
        if (!isDeleted && candidate.state === "staged") refuseErrors(effective, what, candidate);
        return;
      }
      case "secret": {
        const { name: secret, sealed } = arrival as unknown as StoredSecret;
        if (isDeleted || sealed === undefined) refuseInUse(effective, secret);
        const value = sealed && this.#secretKey && open(this.#secretKey, secret, sealed);
        if (value !== undefined) refuseErrors(effective, what, { secret, value });
      }
    }
  }

  /** A layer names no bytes that are not there, and they are not deleted while it comes to name them. */
  async #refuseContent(layer: LayerName, content: ContentList = {}): Promise<void> {
    const { records, contents } = this.#options;
    const named = records.layer(layer)?.content ?? {};
    const added = Object.entries(content).filter(([file, about]) => named[file]?.sha256 !== about.sha256);
    for (const { contentType } of Object.values(content)) checkContentType(contentType);
    const errors: FieldError[] = [];
    for (const [file, { sha256, sizeBytes }] of Object.entries(content)) {
      const isKnown = !added.some(([name]) => name === file) && named[file]?.sizeBytes === sizeBytes;
      if (isKnown || (await contents.sizeBytes(sha256)) === sizeBytes) continue;
      const message = `names ${sizeBytes} bytes that are not here: PUT the file first, or wait until they are replicated`;
      errors.push({ pointer: `/content/${file}`, rule: "content", message });
    }
    if (errors.length > 0) throw new MusterError("refused", `content of layer ${layer} is not here`, { errors });
    await contents.use(Object.fromEntries(added));
  }
}

function refuseForm(id: string, errors: FieldError[]): void {
  const [first] = errors;
  if (first === undefined) return;
  const told = errors.slice(0, 3).map(({ pointer, message }) => `${pointer.slice(0, 200)} ${message}`);
  const code = first.rule === "size" ? "too-large" : "invalid-request";
  throw new MusterError(code, `${id} cannot be that: ${told.join("; ")}`, { errors });
}
