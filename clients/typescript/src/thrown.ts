/** What a program's own functions throw: it can be anything. */
import { inspect } from "node:util";

/** Dead letters and replies tell no more. */
const reasonLengthMax = 1_000;

/** What was thrown, in words that every transport carries. Never throws: an error's message may be no text, or a getter. */
export function reasonOf(thrown: unknown, lengthMax = reasonLengthMax): string {
  try {
    const told: unknown = thrown instanceof Error ? thrown.message : thrown;
    const text = typeof told === "string" ? told : inspect(told);
    return (text.trim() === "" ? nameOf(thrown) : text).slice(0, lengthMax).toWellFormed();
  } catch {
    return "what was thrown cannot be told";
  }
}

/** What there is to say where no word was said. */
function nameOf(thrown: unknown): string {
  return thrown instanceof Error ? `${thrown.name} without a message` : inspect(thrown);
}

/** Whether something was thrown as a `kind`: asking can throw by itself, since what is asked can be a Proxy. */
export function isThrown(thrown: unknown, kind: new (...given: never[]) => Error): boolean {
  try {
    return thrown instanceof kind;
  } catch {
    return false;
  }
}

/** Calls a listener of the program. What it throws or rejects with goes to `onThrown` and stops nothing. */
export async function tell<T>(
  listener: (news: T) => unknown,
  news: T,
  onThrown: (error: unknown) => void,
): Promise<void> {
  try {
    await listener(news);
  } catch (error) {
    onThrown(error);
  }
}
