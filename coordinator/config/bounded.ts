/** Runs what came from outside (a schema's patterns, its references) without letting it hold the process. */
import { createContext, Script } from "node:vm";

const context = createContext({ work: undefined });
const script = new Script("work()");

/**
 * Calls `work`, which must not wait, and stops it after `limitMs`. V8 can stop any JavaScript there, a regular
 * expression that backtracks without end too. Costs a tenth of a millisecond.
 *
 * @returns its result, or undefined where it was stopped.
 * @throws what `work` throws.
 */
export function bounded<Result>(work: () => Result, limitMs: number): { result: Result } | undefined {
  context.work = work;
  try {
    return { result: script.runInContext(context, { timeout: limitMs }) as Result };
  } catch (error) {
    if ((error as { code?: string }).code === "ERR_SCRIPT_EXECUTION_TIMEOUT") return undefined;
    throw error;
  } finally {
    context.work = undefined;
  }
}
