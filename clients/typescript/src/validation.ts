/** Checks settings against the JSON Schema of the component's type before the component sees them. */
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import ajvFormats from "ajv-formats";
import { isMusterError } from "../../../config-db/errors.ts";
import type { Settings } from "../../../config-db/generated/types.ts";
import type { Bridge } from "./bridge.ts";
import type { Logger } from "./logger.ts";

/** Throws what is wrong with settings; returns them, typed. */
export type Validate<S extends object> = (settings: Settings) => S | Promise<S>;

/**
 * Validates by the schema that the site keeps for `type`.
 *
 * The schema is read before the first settings, and again (conditionally) when settings break the one at hand: it may have
 * changed with them. Where there is none, or none can be read or compiled now, everything is taken: the coordinator
 * checked the same before the settings went live, so this is the second fence and not the only one.
 */
export function validateBySchema<S extends object>(bridge: Bridge, type: string, logger: Logger): Validate<S> {
  let etag: string | undefined;
  let validate: ValidateFunction | undefined;
  let isRead = false;
  const readSchema = async () => {
    try {
      const headers: Record<string, string> = etag === undefined ? {} : { "if-none-match": `"${etag}"` };
      const answer = await bridge.ask<object>({ path: `/v1/config/schemas/${type}`, headers, timeoutMs: 3_000 });
      isRead = true;
      if (answer.status === 304) return;
      etag = answer.etag;
      const ajv = new Ajv2020({ allErrors: true, strict: false });
      ajvFormats.default(ajv);
      validate = ajv.compile(answer.body);
    } catch (error) {
      if (isMusterError(error, "not-found")) {
        isRead = true;
        validate = undefined;
        etag = undefined;
      } else {
        logger.debug({ error, type }, "the schema of the type cannot be used now");
      }
    }
  };
  const faultOf = (settings: Settings) => {
    if (validate === undefined || validate(settings)) return undefined;
    return (validate.errors ?? []).slice(0, 5).map((error) => `${error.instancePath || "/"} ${error.message}`);
  };
  return async (settings) => {
    if (!isRead) await readSchema();
    if (faultOf(settings) === undefined) return settings as S;
    await readSchema();
    const fault = faultOf(settings);
    if (fault === undefined) return settings as S;
    throw new Error(`the settings break the schema of ${type}: ${fault.join("; ")}`);
  };
}
