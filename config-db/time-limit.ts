/** What ends work that can take too long, or that is called off: for a coordinator's requests and for clients alike. */

export class TimedOut extends Error {}

export interface TimeLimit {
  signal: AbortSignal;
  /** Time counts no longer. */
  meet(): void;
  /** Nothing aborts it any more. To be called in the end, or `end`. */
  release(): void;
  /** Aborts it at once. */
  end(): void;
}

/**
 * @param late the message of the `TimedOut` that it aborts with when the time is over
 * @param callOff aborts it too, with its own reason
 */
export function timeLimit(timeoutMs: number, late: string, callOff?: AbortSignal): TimeLimit {
  // Not AbortSignal.any with AbortSignal.timeout: in Node 20 what they make can be collected while it is waited on, and
  // then never aborts.
  const ending = new AbortController();
  const calledOff = () => ending.abort(callOff?.reason);
  const timer = setTimeout(() => ending.abort(new TimedOut(late)), timeoutMs);
  callOff?.addEventListener("abort", calledOff);
  if (callOff?.aborted === true) calledOff();
  const meet = () => clearTimeout(timer);
  const release = () => {
    meet();
    callOff?.removeEventListener("abort", calledOff);
  };
  const end = () => {
    release();
    ending.abort();
  };
  return { signal: ending.signal, meet, release, end };
}
