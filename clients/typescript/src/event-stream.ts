/** A server-sent event stream that is opened again whenever it ends. */
import { createParser } from "eventsource-parser";
import { isMusterError } from "../../../config-db/errors.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Bridge } from "./bridge.ts";

export interface StreamEvent {
  event: string;
  id: string | undefined;
  data: unknown;
}

export interface EventStreamOptions {
  bridge: Bridge;
  path: string;
  query?: Record<string, string | number | undefined>;
  /** The id to resume after, where the reader has more than by the stream. Default: that of the last event. */
  lastEventId?(): string | undefined;
  onEvent(event: StreamEvent): void;
  /** True when a stream is open, false when it has ended and is being opened again. */
  onState?(open: boolean, error?: unknown): void;
  signal: AbortSignal;
}

/** The bridge sends something every 15 s: after three times that in silence the connection is dead. */
const silenceMaxMs = 45_000;
const retry = { firstMs: 100, maxMs: 5_000 };
/** Events of more than this are refused: the largest is a `reset` with a thousand records. */
const eventBytesMax = 32 * 1024 * 1024;

/**
 * Follows a stream until `signal` aborts, resuming with `Last-Event-ID`.
 *
 * Resolves at the abort. It never gives up by itself, except that a refusal (any 4xx but 408 and 429) is thrown: asking
 * again would be refused again.
 */
export async function followEvents(options: EventStreamOptions): Promise<void> {
  const { signal, onState } = options;
  let lastEventId: string | undefined;
  let attempt = 0;
  while (!signal.aborted) {
    let failure: unknown;
    let retryAfterMs = 0;
    try {
      await readOnce(options, options.lastEventId?.() ?? lastEventId, (event) => {
        if (attempt !== 0) attempt = 0;
        if (event.id !== undefined) lastEventId = event.id;
        options.onEvent(event);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (isMusterError(error) && error.status >= 400 && error.status < 500 && error.code !== "too-many") throw error;
      failure = error;
      if (isMusterError(error)) retryAfterMs = Math.min(error.retryAfterMs ?? 0, retry.maxMs);
    }
    if (signal.aborted) return;
    onState?.(false, failure);
    await pause(Math.max(retryAfterMs, backoffMs(attempt, retry)), signal);
    attempt += 1;
  }
}

async function readOnce(
  { bridge, path, query, onState, signal }: EventStreamOptions,
  lastEventId: string | undefined,
  onEvent: (event: StreamEvent) => void,
): Promise<void> {
  const headers: Record<string, string> = { accept: "text/event-stream" };
  if (lastEventId !== undefined) headers["last-event-id"] = lastEventId;
  const { response, close } = await bridge.open({ path, headers, signal, ...(query !== undefined && { query }) });
  onState?.(true);
  const parser = createParser({
    onEvent: ({ event = "message", id, data }) => onEvent({ event, id, data: JSON.parse(data) }),
    maxBufferSize: eventBytesMax,
  });
  const timer = setTimeout(close, silenceMaxMs);
  const decoder = new TextDecoder();
  try {
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      timer.refresh();
      parser.feed(decoder.decode(chunk, { stream: true }));
    }
  } finally {
    clearTimeout(timer);
    close();
  }
}
