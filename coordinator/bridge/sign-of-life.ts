/** A component that waits for an answer lives: what counts its polls as renewals. */
import type { QueryParameter } from "./route.ts";

/** Who is alive. */
export interface Sign {
  id: string;
  /** Of the process that asks, where it says so: an older one does not keep the lease of a newer. */
  incarnation?: number;
}

/** What the routes need of the registry for it. */
export interface SignsOfLife {
  /** Renews the lease, if the component holds one. @throws MusterError `superseded`: a newer process has the id. */
  touch(sign: Sign): void;
  /** The lease's length, milliseconds. */
  ttlMsOf(id: string): number;
}

/** For the routes that components poll. */
export const incarnationParameter: Record<string, QueryParameter> = {
  incarnation: {
    description:
      "Of the process that polls, as its registration answered: 409 `superseded` when a newer one has the id.",
    schema: { type: "integer", minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
  },
};

/** Who polls, as a request says by its path and query. */
export function signIn({ params, query }: { params: Record<string, string>; query: Record<string, unknown> }): Sign {
  const { id = "" } = params;
  return query.incarnation === undefined ? { id } : { id, incarnation: Number(query.incarnation) };
}

/**
 * Renews at once, then three times a TTL until what it returns is called, or until a newer process has the id.
 * @param superseded is told that, when it comes later. @throws MusterError `superseded`: it has it already.
 */
export function keepAlive(signs: SignsOfLife, sign: Sign, superseded: (error: unknown) => void = () => {}): () => void {
  signs.touch(sign);
  const stop = () => clearInterval(timer);
  const timer = setInterval(() => {
    try {
      signs.touch(sign);
    } catch (error) {
      stop();
      superseded(error);
    }
  }, signs.ttlMsOf(sign.id) / 3);
  return stop;
}

/**
 * Renews for as long as `answering` takes.
 * @param answering is given a signal that aborts when a newer process has the id: it must end without effect then.
 * @throws MusterError `superseded`
 */
export async function whileAlive<T>(
  signs: SignsOfLife,
  sign: Sign,
  answering: (superseded: AbortSignal) => Promise<T>,
): Promise<T> {
  const ending = new AbortController();
  const stop = keepAlive(signs, sign, (error) => ending.abort(error));
  try {
    const answer = await answering(ending.signal);
    ending.signal.throwIfAborted();
    return answer;
  } finally {
    stop();
  }
}
