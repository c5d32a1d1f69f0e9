/** A component that waits for an answer lives: what counts its polls as renewals. */

/** What the routes need of the registry for it. */
export interface SignsOfLife {
  /** Renews the lease of `id`, if it holds one. */
  touch(id: string): void;
  /** The lease's length, milliseconds. */
  ttlMsOf(id: string): number;
}

/** Renews at once, then three times a TTL until what it returns is called. */
export function keepAlive(signs: SignsOfLife, id: string): () => void {
  signs.touch(id);
  const timer = setInterval(() => signs.touch(id), signs.ttlMsOf(id) / 3);
  return () => clearInterval(timer);
}

/** Renews for as long as `answering` takes. */
export async function whileAlive<T>(signs: SignsOfLife, id: string, answering: () => Promise<T>): Promise<T> {
  const stop = keepAlive(signs, id);
  try {
    return await answering();
  } finally {
    stop();
  }
}
