/** Gives received messages to handlers: each once, in order per sender, at most so many at a time. */
import { MusterError } from "../../../config-db/errors.ts";
import type { Delivery, Result } from "./delivery.ts";
import { HandledMessages } from "./handled.ts";
import type { Logger } from "./logger.ts";
import { checkName, encodeBody, type Message } from "./message.ts";
import { integer } from "./options.ts";
import { isThrown, reasonOf } from "./thrown.ts";
import { withTraceparent } from "./trace.ts";

/** What it returns answers a request; a promise, or whatever else has a `then`, is awaited. What it throws fails the message. */
export type Handler<B = unknown> = (message: Message<B>, context: HandlerContext) => unknown;

export interface HandlerContext {
  /** Aborts at the handler's time-out: what the handler does after that is in vain. */
  readonly signal: AbortSignal;
}

export interface HandlerOptions {
  /** Messages of this name handled at a time. 1–1,000, default 10. Those of one sender follow one another anyway. */
  concurrency?: number;
  /** A handler that takes longer has failed; it should end at `signal`. 1–86,400,000, default 30,000. */
  timeoutMs?: number;
  /** Further attempts at a command or broadcast that failed, before it is a dead letter. 0–100, default 4. */
  retries?: number;
  /** Before the first retry, doubled for each further one up to 30 s. Default 1,000. */
  retryFirstMs?: number;
}

/** Thrown by a handler to say that no further attempt can help. */
export class PermanentFailure extends Error {
  override readonly name = "PermanentFailure";
}

interface Registered {
  handler: Handler;
  concurrency: number;
  timeoutMs: number;
  retries: number;
  retryFirstMs: number;
  running: number;
  /** Messages that wait for a free place. */
  waiting: Task[];
}

interface Task {
  delivery: Delivery;
  /** The sender's, absent where no order is kept. */
  lane: Task[] | undefined;
  laneKey: string;
}

/** Programs connect first and add handlers after; a message that was waiting must not fail for it. */
const graceDefaultMs = 10_000;
const retryMaxMs = 30_000;

export class Dispatcher {
  readonly #logger: Logger;
  readonly #handlers = new Map<string, Registered>();
  readonly #lanes = new Map<string, Task[]>();
  readonly #handled = new HandledMessages();
  /** By message id, those in a handler, in a queue before it, or not yet settled: further deliveries of the same. */
  readonly #open = new Map<string, Delivery[]>();
  /** Without a handler, in the time of grace. */
  #early: Task[] = [];
  #graceTimer: NodeJS.Timeout | undefined;
  #graceIsOver = false;
  #idle: (() => void)[] = [];
  #draining = false;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** The time of grace for messages without a handler starts now. */
  start(graceMs = graceDefaultMs): void {
    this.#graceTimer = setTimeout(() => {
      this.#graceIsOver = true;
      for (const task of this.#early.splice(0)) this.#unhandled(task);
    }, graceMs).unref();
  }

  /** @throws MusterError `invalid-request` for a bad name or option, or a name that has a handler already. */
  handle(name: string, handler: Handler, options: HandlerOptions = {}): () => void {
    checkName(name);
    if (this.#handlers.has(name)) throw new MusterError("invalid-request", `"${name}" has a handler already`);
    const registered: Registered = {
      handler,
      concurrency: integer("concurrency", options.concurrency ?? 10, 1, 1_000),
      timeoutMs: integer("timeoutMs", options.timeoutMs ?? 30_000, 1, 86_400_000),
      retries: integer("retries", options.retries ?? 4, 0, 100),
      retryFirstMs: integer("retryFirstMs", options.retryFirstMs ?? 1_000, 0, 30_000),
      running: 0,
      waiting: [],
    };
    this.#handlers.set(name, registered);
    const early = this.#early;
    this.#early = [];
    for (const task of early) this.#begin(task);
    return () => {
      if (this.#handlers.get(name) === registered) this.#handlers.delete(name);
    };
  }

  /** The longest that any handler may take: how long a taken message must stay invisible to others. */
  get longestTimeoutMs(): number {
    let longest = 30_000;
    for (const { timeoutMs } of this.#handlers.values()) longest = Math.max(longest, timeoutMs);
    return longest;
  }

  deliver(delivery: Delivery): void {
    const { message } = delivery;
    const open = this.#open.get(message.id);
    if (open !== undefined) {
      // A connection was lost while it was handled: the same message, delivered again.
      open.push(delivery);
      return;
    }
    const known = this.#handled.find(message);
    if (known === "passed-on") delivery.drop();
    else if (known !== undefined) void this.#settle(delivery, known);
    else this.#enter(delivery);
  }

  /** Resolves when everything that was delivered has been handled and settled, or after `timeoutMs`. */
  async drain(timeoutMs: number): Promise<void> {
    clearTimeout(this.#graceTimer);
    this.#draining = true;
    for (const task of this.#early.splice(0)) this.#leave(task);
    if (this.#open.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #enter(delivery: Delivery): void {
    const { id, kind, from } = delivery.message;
    this.#open.set(id, []);
    // Requests are not ordered: their sender waits for the reply where it cares.
    if (kind === "request" || from === undefined) {
      this.#begin({ delivery, lane: undefined, laneKey: "" });
      return;
    }
    const laneKey = `${kind}/${from}`;
    let lane = this.#lanes.get(laneKey);
    if (lane === undefined) {
      lane = [];
      this.#lanes.set(laneKey, lane);
    }
    const task: Task = { delivery, lane, laneKey };
    lane.push(task);
    if (lane.length === 1) this.#begin(task);
  }

  /** The task is the first of its lane. */
  #begin(task: Task): void {
    const registered = this.#handlers.get(task.delivery.message.name);
    if (registered === undefined) {
      if (this.#graceIsOver) this.#unhandled(task);
      else if (this.#draining) this.#leave(task);
      else this.#early.push(task);
    } else if (registered.running >= registered.concurrency) {
      registered.waiting.push(task);
    } else if (isLate(task.delivery.message)) {
      this.#skip(task, { state: "late" });
    } else {
      void this.#run(task, registered);
    }
  }

  /** Without a handler when we end, it stays unsettled and goes to the next process, and so does what is behind it. */
  #leave(task: Task): void {
    const left = task.lane?.splice(0) ?? [task];
    this.#lanes.delete(task.laneKey);
    for (const { delivery } of left) this.#forget(delivery.message.id);
  }

  #unhandled(task: Task): void {
    const { name } = task.delivery.message;
    const reason = `no handler for "${name}"`;
    this.#skip(task, { state: "failed", code: "handler-failed", reason, retryInMs: undefined, unhandled: true });
  }

  /** Ends what no handler runs for: one after another, since within each other the thousands of a lane overflow the stack. */
  #skip(task: Task, result: Result): void {
    queueMicrotask(() => void this.#finish(task, result));
  }

  async #run(task: Task, registered: Registered): Promise<void> {
    const { message } = task.delivery;
    registered.running += 1;
    task.delivery.started();
    const result = await call(registered, message);
    registered.running -= 1;
    if (result.state === "failed") {
      this.#logger.warn(
        { id: message.id, name: message.name, attempt: message.attempt, ...result },
        "a handler failed",
      );
    }
    // Those who wait come before the next of its lane, which else would keep them out for as long as its sender sends.
    this.#fill(registered);
    await this.#finish(task, result);
  }

  /** Gives the free places to who waits for one, of whom some may not need it: they are late, or have another handler by now. */
  #fill(registered: Registered): void {
    while (registered.running < registered.concurrency) {
      const next = registered.waiting.shift();
      if (next === undefined) return;
      this.#begin(next);
    }
  }

  async #finish(task: Task, result: Result): Promise<void> {
    const { delivery, lane, laneKey } = task;
    this.#next(lane, laneKey);
    const isSettled = await this.#settle(delivery, result);
    this.#handled.remember(delivery.message, result, isSettled);
    const again = this.#open.get(delivery.message.id) ?? [];
    this.#forget(delivery.message.id);
    for (const repeated of again) this.deliver(repeated);
  }

  /** @returns false when it could not be made sure and the message will come again. */
  async #settle(delivery: Delivery, result: Result): Promise<boolean> {
    try {
      await delivery.settle(result);
      return true;
    } catch (error) {
      this.#logger.debug({ error, id: delivery.message.id }, "not settled; it will come again");
      return false;
    }
  }

  #next(lane: Task[] | undefined, laneKey: string): void {
    if (lane === undefined) return;
    lane.shift();
    const next = lane[0];
    if (next !== undefined) this.#begin(next);
    else this.#lanes.delete(laneKey);
  }

  #forget(id: string): void {
    this.#open.delete(id);
    if (this.#open.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }
}

/** Made when first asked for: most handlers never look at it. */
class Context implements HandlerContext {
  #controller: AbortController | undefined;

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  abort(reason: Error): void {
    this.#controller ??= new AbortController();
    this.#controller.abort(reason);
  }
}

function isLate({ deadlineAtMs }: Message): boolean {
  return deadlineAtMs !== undefined && deadlineAtMs < Date.now();
}

/** Never rejects. */
async function call(registered: Registered, message: Message): Promise<Result> {
  const { handler, timeoutMs } = registered;
  const context = new Context();
  let timedOut = false;
  let timer: NodeJS.Timeout | undefined;
  try {
    let answer = withTraceparent(message.traceparent, () => begun(handler(message, context)));
    if (answer instanceof Promise) {
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => {
          timedOut = true;
          const error = new Error(`the handler took longer than ${timeoutMs} ms`);
          context.abort(error);
          reject(error);
        }, timeoutMs);
      });
      answer = await Promise.race([answer, late]);
    }
    return { state: "done", reply: message.kind === "request" ? encodeBody(answer) : undefined };
  } catch (error) {
    const code = timedOut ? "deadline-exceeded" : "handler-failed";
    const retryInMs = isThrown(error, PermanentFailure) ? undefined : retryDelayMs(registered, message);
    return { state: "failed", code, reason: reasonOf(error), retryInMs };
  } finally {
    clearTimeout(timer);
  }
}

/** A promise for every thenable: what a query builder or another library's promise does begins, or ends, only in its `then`. */
function begun(answer: unknown): unknown {
  return isThenable(answer) ? Promise.resolve(answer) : answer;
}

function isThenable(answer: unknown): answer is PromiseLike<unknown> {
  const canHaveThen = (typeof answer === "object" && answer !== null) || typeof answer === "function";
  return canHaveThen && "then" in answer && typeof answer.then === "function";
}

function retryDelayMs({ retries, retryFirstMs }: Registered, { kind, attempt }: Message): number | undefined {
  if (kind === "request" || attempt > retries) return undefined;
  const waitMs = Math.min(retryMaxMs, retryFirstMs * 2 ** Math.min(attempt - 1, 30));
  // ±20 %: what failed together does not come back together.
  return waitMs * (0.8 + 0.4 * Math.random());
}
