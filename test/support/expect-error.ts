import { expect } from "chai";
import { type ErrorCode, MusterError } from "../../config-db/errors.ts";

/** Runs `action`, which is to fail with this code and, if given, a message like this. Resolves with the error. */
export async function expectError(
  action: () => Promise<unknown>,
  code: ErrorCode,
  message?: RegExp,
): Promise<MusterError> {
  let caught: unknown;
  try {
    await action();
  } catch (error) {
    caught = error;
  }
  if (caught === undefined) throw new Error(`expected ${code}, but nothing was thrown`);
  if (!(caught instanceof MusterError)) throw caught;
  expect(caught.code, caught.message).to.equal(code);
  if (message !== undefined) expect(caught.message).to.match(message);
  return caught;
}
