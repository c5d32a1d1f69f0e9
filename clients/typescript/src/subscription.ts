/** Events that others send. */
import type { Bridge } from "./bridge.ts";
import { followEvents } from "./event-stream.ts";
import { fromHttpBody, type HttpBody } from "./http-sender.ts";
import type { Logger } from "./logger.ts";
import { tell } from "./thrown.ts";
import { traceparentOf, withTraceparent } from "./trace.ts";

export interface Event {
  name: string;
  /** Absent when no component sent it. */
  from: string | undefined;
  body: unknown;
}

/** As the bridge streams it. */
interface EventData extends HttpBody {
  name: string;
  from?: string;
  traceparent?: string;
}

/** Calls `handler` until `signal` aborts. A pattern that is refused, and a handler that throws, are logged. */
export async function followSubscription(
  bridge: Bridge,
  pattern: string,
  handler: (event: Event) => void,
  signal: AbortSignal,
  logger: Logger,
): Promise<void> {
  const onEvent = ({ data }: { data: unknown }) => {
    const { name, from, traceparent, ...body } = data as EventData;
    const event: Event = { name, from, body: fromHttpBody(body) };
    const failed = (error: unknown) => logger.error({ error, pattern }, "a subscriber threw");
    withTraceparent(traceparentOf(traceparent), () => void tell(handler, event, failed));
  };
  try {
    await followEvents({ bridge, path: "/v1/events", query: { match: pattern }, signal, onEvent });
  } catch (error) {
    logger.error({ error, pattern }, "the subscription was refused");
  }
}
