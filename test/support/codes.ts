import { isMusterError } from "../../config-db/errors.ts";

/** The code that `promise` is rejected with; "none" when it resolves. Any other error is thrown on. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    if (isMusterError(error)) return error.code;
    throw error;
  }
}
