/** What JSON from outside may be, beyond its grammar. */
import { MusterError } from "./errors.ts";

/** Nesting of any JSON body: JSON.stringify and every walk over it recurse. */
export const depthMax = 256;

/** Whether what JSON.parse gave nests too deep. As fast as may be; its recursion ends where it has found so. */
export function nestsTooDeep(value: unknown, levels = depthMax): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (levels === 0) return true;
  if (Array.isArray(value)) return value.some((child) => nestsTooDeep(child, levels - 1));
  for (const key in value) {
    if (nestsTooDeep((value as Record<string, unknown>)[key], levels - 1)) return true;
  }
  return false;
}

/** @throws MusterError `malformed-json` for what nests too deep. */
export function checkDepth(value: unknown): void {
  if (nestsTooDeep(value)) throw new MusterError("malformed-json", `the body nests deeper than ${depthMax} levels`);
}

/**
 * @param value of which the depth was checked.
 * @throws MusterError `malformed-json` for half of a surrogate pair.
 */
export function checkSurrogates(value: unknown): void {
  if (typeof value === "string" && !value.isWellFormed()) {
    throw new MusterError("malformed-json", "a string has half of a surrogate pair: it cannot be stored as UTF-8");
  }
  if (typeof value !== "object" || value === null) return;
  for (const [key, child] of Object.entries(value)) {
    if (!key.isWellFormed()) {
      throw new MusterError("malformed-json", "a key has half of a surrogate pair: it cannot be stored as UTF-8");
    }
    checkSurrogates(child);
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** @throws MusterError `malformed-json` for what is not UTF-8, not JSON, nested too deep or has lone surrogates. */
export function readJson(bytes: Buffer): unknown {
  let value: unknown;
  let text: string;
  try {
    text = utf8.decode(bytes);
    value = JSON.parse(text);
  } catch (error) {
    throw new MusterError("malformed-json", `the body is not JSON in UTF-8: ${(error as Error).message}`);
  }
  checkDepth(value);
  // Only an escape can bring a lone surrogate past the decoder; most bodies have none and are not walked for it.
  if (/\\u[dD][89a-fA-F]/.test(text)) checkSurrogates(value);
  return value;
}
