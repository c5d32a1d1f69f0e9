/** `muster events` and `muster tap`: what passes by, as it happens. */
import type { Command } from "commander";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { plain, type Style, short } from "../style.ts";
import { moment } from "../table.ts";

interface Message {
  /** Of an event: `<type>.<component>.<name>`. */
  topic?: string;
  key?: string;
  routingKey?: string;
  exchange?: string;
  kind?: string;
  name?: string;
  from?: string;
  to?: string;
  at?: string;
  sentAt?: string;
  body?: unknown;
  [field: string]: unknown;
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
      .argument("[pattern]", "of routing keys, where * is one word and # any number")
      .option("--body", "with the bodies")
      .action(
        cli.does<[string | undefined], { body?: true }>(async (session, [match], { body }) => {
          for await (const event of session.events<Message>({ path: "/v1/tap", query: { match, body } })) {
            await session.printEvent(event, (style) => messageText(event.data, style));
          }
        }, next),
      ),
    { line: "muster tap" },
    { line: "muster tap 'collector-1' --body" },
  );
}

function messageText(message: Message, style: Style): string {
  const { topic, key, routingKey, exchange, kind, name, from, to, at, sentAt, body } = message;
  const where = topic ?? key ?? routingKey ?? to;
  const parts = [
    style.dim(moment(at ?? sentAt)),
    kind === undefined ? "" : style.cyan(kind),
    name === undefined ? "" : style.bold(plain(name)),
    from === undefined ? "" : `from ${plain(from)}`,
    where === undefined ? "" : style.dim(`${exchange === undefined ? "" : `${plain(exchange)} `}${plain(where)}`),
    body === undefined ? "" : short(body, 200),
  ];
  return parts.filter((part) => part !== "").join("  ");
}
