/** Writes of schemas: compiled, and checked against the settings that the type's components have. */
import { MusterError } from "../../config-db/errors.ts";
import type { SchemaDocument } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import type { WriteContext, WritesOptions } from "./guarded-write.ts";
import { guardedWrite, versionAfter } from "./guarded-write.ts";
import { refuseErrors } from "./judgement.ts";
import type { Settings } from "./merge.ts";
import type { StoredSchema } from "./records.ts";
import { compileSchema } from "./schema.ts";

export class SchemaWrites {
  readonly #options: WritesOptions;

  constructor(options: WritesOptions) {
    this.#options = options;
  }

  /**
   * @throws MusterError `refused` when it is no usable schema, with pointers into it, or when settings that a component
   * has now do not fit it, with pointers into those; `precondition-failed` and `conflict` as `guardedWrite`.
   */
  async put(type: string, schema: Settings, context: WriteContext): Promise<StoredSchema> {
    compileSchema(schema);
    return this.#write(type, context, () => schema);
  }

  /** @throws MusterError `not-found` where there is none, else as `put` */
  async delete(type: string, context: WriteContext): Promise<void> {
    await this.#write(type, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `type ${type} has no schema to delete`);
      return undefined;
    });
  }

  async #write(
    type: string,
    context: WriteContext,
    change: (stored: StoredSchema | undefined) => Settings | undefined,
  ): Promise<StoredSchema> {
    const { records, effective, order } = this.#options;
    const id = documentId.schema(type);
    return order.run(id, () =>
      guardedWrite<SchemaDocument>(this.#options, {
        id,
        newest: () => records.schemas.get(type),
        expected: context.expected,
        make: (newest) => {
          const schema = change(newest?._deleted === true ? undefined : newest);
          refuseErrors(effective, `this schema of type ${type}`, { id, content: schema });
          return {
            _id: id,
            kind: "schema",
            schemaVersion: 1,
            type,
            schema: schema ?? {},
            ...versionAfter(newest?.version ?? 0, context.author, this.#options),
            ...(schema === undefined ? { _deleted: true } : {}),
          };
        },
      }),
    );
  }
}
