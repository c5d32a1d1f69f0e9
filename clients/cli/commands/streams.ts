/** `muster events` and `muster tap`: what passes by, as it happens. */
import type { Command } from "commander";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { plain, type Style, short } from "../style.ts";
import { moment } from "../table.ts";

/** An event, or a tapped message: what both have, and what only one has. */
interface Message {
  /** Of an event: `<type>.<component>.<name>`. */
  topic?: string;
  exchange?: string;
  routingKey?: string;
  kind?: string;
  name?: string;
  from?: string;
  sentAt?: string;
  attempt?: number;
  reason?: string;
  /** What a consumer will reject it for. */
  malformed?: string;
  body?: unknown;
  contentType?: string;
  bodyBase64?: string;
}

const next = {
  "broker-unavailable":
    "Messages need a broker, and a station has none: use --url of the site itself. See muster status.",
};

export function streamCommands(program: Command, cli: Invocation): void {
  withExamples(
    program
      .command("events")
      .summary("follow events")
      .description("Follow events as they are published.")
      .argument("[pattern]", "topics: <type>.<component>.<event>, where * is one word and # any number", "#")
      .action(
        cli.does<[string]>(async (session, [match]) => {
          for await (const event of session.events<Message>({ path: "/v1/events", query: { match } })) {
            await session.printEvent(event, (style) => messageText(event.data, style));
          }
        }, next),
      ),
    { line: "muster events", does: "all" },
    { line: "muster events 'collector.*.#'", does: "of collectors" },
    { line: "muster events 'collector.*.reading' -o json | jq .data.body" },
  );

  withExamples(
    program
      .command("tap")
      .summary("follow every message, for finding faults")
      .description("Follow the messages that pass through this site's broker, without taking them from anyone.")
      .argument("[pattern]", "<kind>.<target>.<name>, where * is one word and # any number", "#")
      .option("--body", "with the bodies")
      .action(
        cli.does<[string], { body?: true }>(async (session, [match], { body }) => {
          for await (const event of session.events<Message>({ path: "/v1/tap", query: { match, body } })) {
            await session.printEvent(event, (style) => messageText(event.data, style));
          }
        }, next),
      ),
    { line: "muster tap" },
    { line: "muster tap 'command.collector-1.#' --body", does: "the commands to one component" },
  );
}

function messageText(message: Message, style: Style): string {
  const { topic, exchange, routingKey, kind, name, from, sentAt, attempt = 1, reason, malformed } = message;
  const where = topic ?? (exchange === undefined ? "" : `${exchange} ${routingKey ?? ""}`.trim());
  const parts = [
    style.dim(moment(sentAt)),
    style.cyan(plain(kind ?? "")),
    style.bold(plain(name ?? "")),
    from === undefined ? "" : `from ${plain(from)}`,
    style.dim(plain(where)),
    attempt > 1 ? style.yellow(`attempt ${attempt}`) : "",
    reason === undefined ? "" : style.red(plain(reason)),
    malformed === undefined ? "" : style.red(`malformed: ${plain(malformed)}`),
    bodyText(message),
  ];
  return parts.filter((part) => part !== "").join("  ");
}

function bodyText({ body, contentType, bodyBase64 }: Message): string {
  if (body !== undefined) return short(body, 200);
  return bodyBase64 === undefined
    ? ""
    : `${Buffer.byteLength(bodyBase64, "base64")} bytes of ${plain(contentType ?? "")}`;
}
