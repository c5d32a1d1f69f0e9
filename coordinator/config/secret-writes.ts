/** Secrets: written sealed, listed without their values, never read back but in a component's own settings. */
import { MusterError } from "../../config-db/errors.ts";
import type { SecretDocument } from "../../config-db/generated/types.ts";
import { documentId, idPattern } from "../../config-db/names.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import type { WriteContext, WritesOptions } from "./guarded-write.ts";
import { guardedWrite, versionAfter } from "./guarded-write.ts";
import { refuseErrors } from "./judgement.ts";
import type { StoredSecret } from "./records.ts";
import { seal } from "./sealing.ts";

/** What anyone may know of a secret. */
export interface SecretSummary {
  name: string;
  version: number;
  changedBy: string;
  changedAt: string;
  site: string;
}

export class SecretWrites {
  readonly #options: WritesOptions;
  readonly #key: Buffer | undefined;

  constructor(options: WritesOptions, key: Buffer | undefined) {
    this.#options = options;
    this.#key = key;
  }

  list(): SecretSummary[] {
    const secrets = [...this.#options.records.secrets.values()].filter((stored) => stored._deleted !== true);
    return secrets
      .map(({ name, version, changedBy, changedAt, site }) => ({ name, version, changedBy, changedAt, site }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * The same value again writes nothing, so that no component sees a change.
   * @throws MusterError `refused` where this site has no key, or a component's schema does not take the value; else as
   * `guardedWrite`
   */
  async put(name: string, value: string, context: WriteContext): Promise<StoredSecret> {
    checkName(name);
    const key = this.#key;
    if (key === undefined) {
      throw new MusterError(
        "refused",
        "this site keeps no secrets: start it with MUSTER_SECRET_KEY, 32 bytes in base64",
      );
    }
    const { records } = this.#options;
    return this.#write(name, context, (stored) => {
      const isUsable = stored !== undefined && !records.unusable.has(stored._id);
      if (context.expected === undefined && isUsable && records.secret(name)?.value === value) return undefined;
      refuseErrors(this.#options.effective, `this value of secret ${name}`, { secret: name, value });
      return { sealed: seal(key, name, value) };
    });
  }

  /** @throws MusterError `not-found`; `refused` while settings refer to it, with the components that would lose it. */
  async delete(name: string, context: WriteContext): Promise<void> {
    checkName(name);
    await this.#write(name, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `there is no secret "${name}"`);
      refuseInUse(this.#options.effective, name);
      return { _deleted: true };
    });
  }

  async #write(
    name: string,
    context: WriteContext,
    change: (stored: StoredSecret | undefined) => Pick<SecretDocument, "sealed" | "_deleted"> | undefined,
  ): Promise<StoredSecret> {
    const { records, order } = this.#options;
    const id = documentId.secret(name);
    return order.run(id, () =>
      guardedWrite<SecretDocument>(this.#options, {
        id,
        newest: () => records.secrets.get(name),
        expected: context.expected,
        make: (newest) => {
          const changed = change(newest?._deleted === true ? undefined : newest);
          if (changed === undefined) return undefined;
          return {
            ...changed,
            _id: id,
            kind: "secret",
            schemaVersion: 1,
            name,
            ...versionAfter(newest?.version ?? 0, context.author, this.#options),
          };
        },
      }),
    );
  }
}

/** @throws MusterError `refused` while settings refer to it */
export function refuseInUse(effective: EffectiveSettings, name: string): void {
  const users = effective.usersOfSecret(name);
  if (users.length === 0) return;
  const told = users.slice(0, 10).join(", ");
  throw new MusterError("refused", `secret "${name}" is in the settings of ${users.length} components: ${told}`);
}

function checkName(name: string): void {
  if (idPattern.test(name)) return;
  throw new MusterError("invalid-request", `"${name.slice(0, 100)}" cannot name a secret: ${idPattern.source}`);
}
