/** What was handled to the end, by message id: so that a message that comes again is told the same and not handled again. */
import type { Result } from "./delivery.ts";
import type { Message } from "./message.ts";

/** The wire asks for the last 10,000. */
const idsMin = 10_000;
/** Whoever asks again does so soon. The replies of at least so many requests are kept, or of so many bytes. */
const repliesMin = 1_000;
const replyBytesMin = 8 * 1024 * 1024;

/** How far a message came that was not handled to the end. */
interface Unfinished {
  redriven: number;
  attempt: number;
  end: "retried" | Result;
}

type Kept = "done" | "replied" | Unfinished;

interface KeptReply {
  contentType: string;
  /** As text: a small Buffer keeps alive the block of memory that it was cut from, and a thousand others with it. */
  latin1: string;
}

const done: Result = { state: "done", reply: undefined };
const replyForgotten: Result = {
  state: "failed",
  code: "handler-failed",
  reason: "this request was handled before, and its reply is not kept any more",
  retryInMs: undefined,
};

export class HandledMessages {
  readonly #ids = new Generations<Kept>((count) => count >= idsMin);
  readonly #replies = new Generations<KeptReply>((count, size) => count >= repliesMin || size >= replyBytesMin);

  /** @param isPassedOn false where a failed attempt could not be passed on: it comes again, and is to be handled again. */
  remember({ id, attempt, redriven }: Message, result: Result, isPassedOn: boolean): void {
    if (result.state === "failed" && result.retryInMs !== undefined) {
      if (isPassedOn) this.#ids.set(id, { redriven, attempt, end: "retried" });
    } else if (result.state !== "done") {
      this.#ids.set(id, { redriven, attempt, end: result });
    } else if (result.reply === undefined) {
      this.#ids.set(id, "done");
    } else {
      const { contentType, content } = result.reply;
      this.#ids.set(id, "replied");
      this.#replies.set(id, { contentType, latin1: content.toString("latin1") }, content.length);
    }
  }

  /**
   * How it ended; `passed-on` when this attempt has led to a next one, or to a dead letter that was sent again; undefined
   * when it is new, or long ago.
   */
  find({ id, attempt, redriven }: Message): Result | "passed-on" | undefined {
    const kept = this.#ids.get(id);
    if (kept === undefined) return undefined;
    if (kept === "done") return done;
    if (kept !== "replied") {
      if (redriven !== kept.redriven) return redriven < kept.redriven ? "passed-on" : undefined;
      if (kept.end !== "retried") return kept.end;
      return attempt <= kept.attempt ? "passed-on" : undefined;
    }
    const reply = this.#replies.get(id);
    if (reply === undefined) return replyForgotten;
    const { contentType, latin1 } = reply;
    return { state: "done", reply: { contentType, content: Buffer.from(latin1, "latin1") } };
  }
}

/** Two maps that take turns: forgetting costs nothing per entry, at the price of keeping up to twice as many. */
class Generations<V> {
  readonly #isFull: (count: number, size: number) => boolean;
  #older = new Map<string, V>();
  #newer = new Map<string, V>();
  #newerSize = 0;

  constructor(isFull: (count: number, size: number) => boolean) {
    this.#isFull = isFull;
  }

  get(key: string): V | undefined {
    return this.#newer.get(key) ?? this.#older.get(key);
  }

  set(key: string, value: V, size = 0): void {
    if (this.#isFull(this.#newer.size, this.#newerSize)) {
      this.#older = this.#newer;
      this.#newer = new Map();
      this.#newerSize = 0;
    }
    this.#newer.set(key, value);
    this.#newerSize += size;
  }
}
