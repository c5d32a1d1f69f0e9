/**
 * Runs the functions of design documents, each in a JavaScript context of its own, with a time limit.
 *
 * Only text crosses the border: a function can neither reach this process's objects nor keep them. Node's vm is no
 * wall against a determined attacker; whoever may write design documents is an administrator.
 */
import { type Context, createContext, Script } from "node:vm";
import { LRUCache } from "lru-cache";
import { CouchError } from "./couch-error.ts";
import { limits } from "./limits.ts";

/** What one call came to. */
export type Outcome =
  | { kind: "returned"; value: unknown; emitted: [unknown, unknown][] }
  /** What the function threw: an object such as `{forbidden: "why"}`, or an Error's text. */
  | { kind: "threw"; thrown: Record<string, unknown>; message: string }
  /** It, or one before it in the same batch, ran into the time limit. */
  | { kind: "timedOut" };

/** A function of a design document, whatever runs it. */
export interface Callable {
  /** Calls it once for each list of arguments. */
  call(calls: unknown[][], options: { timeoutMs: number; self?: unknown }): Outcome[];
}

/** Stands in each context before the function: what CouchDB's query server offers to all of them. */
const prelude = `(function (parse, stringify, text, isError) {
  var emitted = [], outcomes = [];
  globalThis.emit = function (key, value) {
    emitted.push([key === undefined ? null : key, value === undefined ? null : value]);
  };
  globalThis.log = function () {};
  globalThis.isArray = Array.isArray;
  globalThis.toJSON = JSON.stringify;
  globalThis.sum = function (values) { return values.reduce(function (total, value) { return total + value; }, 0); };
  var one = function (self, given) {
    emitted = [];
    try {
      var value = designFunction.apply(self, given);
      return stringify({ kind: "returned", value: value === undefined ? null : value, emitted: emitted });
    } catch (thrown) {
      var isObject = typeof thrown === "object" && thrown !== null && !isError(thrown);
      return stringify({ kind: "threw", thrown: isObject ? thrown : {}, message: text(thrown) });
    }
  };
  globalThis.runCalls = function (self, calls) {
    outcomes = [];
    self = parse(self);
    calls = parse(calls);
    for (var i = 0; i < calls.length; i++) outcomes.push(one(self, calls[i]));
    return takeOutcomes();
  };
  globalThis.takeOutcomes = function () { return stringify(outcomes); };
})(JSON.parse, JSON.stringify, String, function (thrown) { return thrown instanceof Error; });
`;

const start = new Script(prelude);
const run = new Script("runCalls(givenSelf, givenCalls)");
const take = new Script("takeOutcomes()");

export class DesignFunction implements Callable {
  readonly #context: Context;

  /** @throws CouchError 400 `compilation_error` where the source is not the text of one function. */
  constructor(source: string) {
    // Microtasks run inside the limit, too; text is never compiled from within.
    this.#context = createContext(Object.create(null), {
      microtaskMode: "afterEvaluate",
      codeGeneration: { strings: false, wasm: false },
    });
    start.runInContext(this.#context);
    const text = source.trim().replace(/;+$/, "");
    try {
      new Script(`var designFunction = (\n${text}\n);`).runInContext(this.#context, {
        timeout: limits.designFunctionMs,
      });
    } catch (error) {
      throw compilationError(`${String(error)}: ${excerpt(source)}`);
    }
    const isFunction = new Script('typeof designFunction === "function"').runInContext(this.#context) === true;
    if (!isFunction) throw compilationError(`Expression does not eval to a function. (${excerpt(source)})`);
  }

  /**
   * Calls the function once for each list of arguments, `self` being its `this`. The limit is for the whole batch: it
   * grows with the batch only by what honest calls need, so that a loop cannot hold the process for long.
   */
  call(calls: unknown[][], options: { timeoutMs: number; self?: unknown }): Outcome[] {
    this.#context.givenSelf = JSON.stringify(options.self ?? null);
    this.#context.givenCalls = JSON.stringify(calls);
    const outcomes = this.#run(options.timeoutMs + calls.length);
    return calls.map((_, index) => outcomes[index] ?? { kind: "timedOut" });
  }

  /** Calls that ended before the limit keep their outcome when a later one runs into it. */
  #run(timeoutMs: number): Outcome[] {
    try {
      return parseOutcomes(run.runInContext(this.#context, { timeout: timeoutMs }));
    } catch {
      try {
        return parseOutcomes(take.runInContext(this.#context, { timeout: limits.designFunctionMs }));
      } catch {
        return [];
      }
    }
  }
}

function parseOutcomes(text: unknown): Outcome[] {
  return (JSON.parse(String(text)) as string[]).map((outcome) => JSON.parse(outcome) as Outcome);
}

function compilationError(reason: string): CouchError {
  return new CouchError(400, "compilation_error", reason);
}

function excerpt(source: string): string {
  return source.length > 200 ? `${source.slice(0, 200)}…` : source;
}

const compiled = new LRUCache<string, DesignFunction>({ max: limits.compiledFunctions });

/** The compiled function of this source: design functions keep no state, so that equal sources share one. */
export function compile(source: string): DesignFunction {
  let found = compiled.get(source);
  if (found === undefined) {
    found = new DesignFunction(source);
    compiled.set(source, found);
  }
  return found;
}
