/**
 * What was answered to POSTs that carry an `Idempotency-Key`. The key, when it is long enough to be nobody else's by
 * chance, is the message's id; else the id is made from it. So even after this memory is gone (another coordinator, a
 * restart), and over AMQP too, a repeated send is the same message to its target, which handles it once.
 */
import { createHash, randomUUID } from "node:crypto";
import { LRUCache } from "lru-cache";
import { MusterError } from "../../config-db/errors.ts";

export interface IdempotencyOptions {
  /** Answers kept. */
  max?: number;
  /** How long, in milliseconds. */
  ttlMs?: number;
}

interface Remembered {
  fingerprint: string;
  answer: Promise<unknown>;
}

const keyCharactersMax = 255;
const answersBytesMax = 64 * 1024 * 1024;
/** A key, a fingerprint, a promise. */
const entryBytes = 500;
/** UUIDs, ULIDs, the ids of the client libraries. */
const ownIdPattern = /^[A-Za-z0-9_-]{16,128}$/;

/** Tells one request body from another. */
export function fingerprintOf(input: unknown): string {
  return createHash("sha256").update(JSON.stringify(input)).digest("base64");
}

export class Idempotency {
  readonly #answers: LRUCache<string, Remembered>;

  constructor({ max = 10_000, ttlMs = 600_000 }: IdempotencyOptions = {}) {
    this.#answers = new LRUCache({ max, ttl: ttlMs, maxSize: answersBytesMax });
  }

  /**
   * Runs `work` once for `key` and the same `input`, and answers repetitions with what it gave. A failure is not
   * remembered: the repetition runs again, with the same message id.
   * @param scope who asks for what: keys of different askers do not meet.
   * @throws MusterError `invalid-request` for a bad key; `refused` when the key came with another input before.
   */
  async once<Answer>(
    request: { scope: string; key: string | undefined; input: unknown },
    work: (messageId: string) => Promise<Answer>,
  ): Promise<Answer> {
    const { scope, key, input } = request;
    if (key === undefined) return work(randomUUID());
    if (key.length === 0 || key.length > keyCharactersMax)
      throw new MusterError(
        "invalid-request",
        `Idempotency-Key must have 1 to ${keyCharactersMax} characters, got ${key.length}`,
      );
    const name = `${scope}\n${key}`;
    const fingerprint = fingerprintOf(input);
    const before = this.#answers.get(name);
    if (before !== undefined) {
      if (before.fingerprint === fingerprint) return before.answer as Promise<Answer>;
      throw new MusterError(
        "refused",
        `the Idempotency-Key "${key}" came with another request before; use a new key for a new one`,
      );
    }
    const answer = work(ownIdPattern.test(key) ? key : idFrom(name));
    const remembered = { fingerprint, answer };
    this.#answers.set(name, remembered, { size: entryBytes });
    try {
      const given = await answer;
      // Now its size is known. One that is too large by itself is not kept; its message has the same id again.
      this.#answers.set(name, remembered, { size: entryBytes + JSON.stringify(given).length });
      return given;
    } catch (error) {
      this.#answers.delete(name);
      throw error;
    }
  }
}

/** A UUID made from a name (version 8 of RFC 9562: own contents). */
function idFrom(name: string): string {
  const hex = createHash("sha256").update(name).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
