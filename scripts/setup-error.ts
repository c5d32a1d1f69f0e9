/**
 * Something about this machine or its settings keeps the platform from starting, and whoever started it can change
 * that. The message says what and how; it is printed without a stack.
 */
export class SetupError extends Error {
  override readonly name = "SetupError";
}
