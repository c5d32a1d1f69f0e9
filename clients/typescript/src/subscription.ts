/** Events that others send. */
import type { Bridge } from "./bridge.ts";
import { followEvents } from "./event-stream.ts";
import { fromHttpBody, type HttpBody } from "./http-sender.ts";
import type { Logger } from "./logger.ts";
import { tell } from "./thrown.ts";

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
    const { name, from, ...body } = data as EventData;
    const event: Event = { name, from, body: fromHttpBody(body) };
    void tell(handler, event, (error) => logger.error({ error, pattern }, "a subscriber threw"));
  };
  try {
    await followEvents({ bridge, path: "/v1/events", query: { match: pattern }, signal, onEvent });
  } catch (error) {
    logger.error({ error, pattern }, "the subscription was refused");
  }
}
