import { randomBytes } from "node:crypto";

const prefix = randomBytes(12).toString("base64url");
let count = 0;

/** A message id: random per process, counted within it. Ten times as cheap as a random UUID for each message. */
export function nextId(): string {
  count += 1;
  return `${prefix}-${count.toString(36)}`;
}
