/** A received message and what is to become of it: between the transports and the dispatcher. */
import type { Message } from "./message.ts";

/** How a handler ended. */
export type Result =
  | { state: "done"; reply: { contentType: string; content: Buffer } | undefined }
  | {
      state: "failed";
      code: "handler-failed" | "deadline-exceeded";
      reason: string;
      /** The wait before the next attempt; absent when there is none. */
      retryInMs: number | undefined;
      /** Nobody here handles messages of this name. */
      unhandled?: true;
    }
  /** The deadline passed before the handler could start. */
  | { state: "late" };

export interface Delivery {
  message: Message;
  /** The handler starts now. */
  started(): void;
  /**
   * Passes the result on and lets go of the message. Rejects when that could not be made sure: the message will come
   * again, and its result is told again then.
   */
  settle(result: Result): Promise<void>;
  /** Lets go of a message whose outcome is known to be told already. */
  drop(): void;
}

/** What transports give received things to. */
export interface Receiver {
  deliver(delivery: Delivery): void;
  /** The configuration stands at `revision` now. */
  signal(revision: string): void;
}
