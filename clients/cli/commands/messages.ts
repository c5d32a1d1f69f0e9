/** `muster send|request|broadcast|emit|commands`: messages to components, and what became of them. */
import { type Command, Option } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import { readBytes, readText } from "../file-input.ts";
import type { Invocation } from "../invocation.ts";
import type { Session } from "../session.ts";
import { coloredJson, plain, type Style, short } from "../style.ts";
import { type Column, details, moment, table } from "../table.ts";
import { parseBody, parseDuration, parseTarget, targetText } from "../values.ts";

interface TargetState {
  state: string;
  at?: string;
  attempt?: number;
  reason?: string;
}

interface TrackedCommand {
  id: string;
  to: Target;
  name: string;
  sentAt: string;
  deadlineAt?: string;
  targets: Record<string, TargetState>;
}

type Reply = { from: string; body?: unknown; error?: { code?: string; detail?: string } | string };
type RequestAnswer = Reply | { replies: Reply[]; missing: string[] };

interface BodyOptions {
  file?: string;
  contentType?: string;
}

interface SendOptions extends BodyOptions {
  wait?: true;
  deadline?: number;
}

const bodyHelp = "key=value pairs, or one JSON value";
const sendNext = {
  "no-such-target": "Nobody of that name has ever registered: see muster components ls --state any",
  "not-found": "The coordinator keeps commands for a while only, and each site its own.",
};

export function messageCommands(program: Command, cli: Invocation): void {
  withExamples(
    sending(program.command("send"))
      .summary("send a command")
      .description("Send a command. It waits for a component that is down; its id tells later what became of it.")
      .argument("<target>", "a component's id, type:<t> for all of a type, any:<t> for one of it, or all")
      .argument("<name>", "of the command")
      .argument("[body...]", bodyHelp)
      .action(
        cli.does<[string, string, string[]], SendOptions>(
          (session, [target, name, words], options) => sendCommand(session, parseTarget(target), name, words, options),
          sendNext,
        ),
      ),
    { line: "muster send collector-1 recalibrate" },
    { line: "muster send collector-1 recalibrate offset=0.5 --wait", does: "and see what became of it" },
    { line: "muster send type:collector recalibrate '{\"offset\": 0.5}' --deadline 1h", does: "not after an hour" },
    { line: "muster send any:collector recalibrate -f body.json", does: "one of them, whoever is free" },
  );

  withExamples(
    withBody(program.command("request"))
      .summary("send a request and print the reply")
      .description(
        "Send a request and print the reply: one, or those of all of a type. --timeout says how long to wait.",
      )
      .argument("<target>", "a component's id, type:<t> for all of a type, any:<t> for one of it, or all")
      .argument("<name>", "of the request")
      .argument("[body...]", bodyHelp)
      .action(
        cli.does<[string, string, string[]], BodyOptions>(
          (session, [target, name, words], options) => request(session, parseTarget(target), name, words, options),
          sendNext,
        ),
      ),
    { line: "muster request collector-1 reading" },
    { line: "muster request collector-1 reading sensor=t1 --timeout 5s" },
    { line: "muster request type:collector reading -o json | jq '.replies[].body'", does: "all of a type" },
  );

  withExamples(
    sending(program.command("broadcast"))
      .summary("send a command to all components")
      .description("Send a command to all components, or all of a type. A component that is away for long misses it.")
      .argument("<name>", "of the command")
      .argument("[body...]", bodyHelp)
      .option("--type <type>", "to this type only")
      .action(
        cli.does<[string, string[]], SendOptions & { type?: string }>(
          (session, [name, words], { type, ...options }) =>
            sendCommand(session, parseTarget(type === undefined ? "all" : `type:${type}`), name, words, options),
          sendNext,
        ),
      ),
    { line: "muster broadcast flush" },
    { line: "muster broadcast flush --type collector level=2" },
  );

  withExamples(
    withBody(program.command("emit"))
      .summary("publish an event")
      .description("Publish an event.")
      .argument("<name>", "of the event")
      .argument("[body...]", bodyHelp)
      .option("--from <component>", "the component that it is told of")
      .action(
        cli.does<[string, string[]], BodyOptions & { from?: string }>(
          async (session, [name, words], { from, ...options }) => {
            const body = {
              name,
              ...(await messageBody(session, words, options)),
              ...(from === undefined ? {} : { from }),
            };
            const answer = await session.bridge.ask({ method: "POST", path: "/v1/events", body });
            await session.print(answer.body ?? { name }, (style) => `event ${style.bold(plain(name))} is published`);
          },
        ),
      ),
    { line: "muster emit door.opened floor=3" },
    { line: "muster emit reading celsius=21.5 --from collector-1" },
  );

  const group = program
    .command("commands")
    .alias("command")
    .summary("see what became of a command")
    .description("See what became of a command.");
  withExamples(
    group
      .command("show")
      .description("Show what each target did with a command.")
      .argument("<command-id>", "as muster send printed it")
      .option("--wait", "until every target has ended it: ends with 0 when all did it, else 1, or 6 after --timeout")
      .action(
        cli.does<[string], { wait?: true }>(async (session, [id], { wait }) => {
          if (wait) return await awaitCommand(session, id);
          const { body } = await session.bridge.ask<TrackedCommand>({ path: path`/v1/commands/${id}` });
          await session.print(body, (style) => commandText(body, style, session.columns));
          return exitCodes.ok;
        }, sendNext),
      ),
    { line: "muster commands show $(muster send collector-1 recalibrate -o json | jq -r .id) --wait" },
  );
}

function withBody(command: Command): Command {
  return command
    .option("-f, --file <file>", "the body, from a file; - is standard input")
    .option("--content-type <type>", "of the file, when it is not JSON");
}

function sending(command: Command): Command {
  return withBody(command)
    .option("--wait", "until every target has ended it: ends with 0 when all did it, else 1, or 6 after --timeout")
    .addOption(
      new Option("--deadline <duration>", "not to be handled later than this from now").argParser(parseDuration),
    );
}

/** The `body`, or `contentType` and `bodyBase64`, of a message. */
async function messageBody(
  session: Session,
  words: string[],
  { file, contentType }: BodyOptions,
): Promise<Record<string, unknown>> {
  if (file !== undefined && words.length > 0) {
    throw new MusterError("invalid-request", "the body is given twice, in words and as a file");
  }
  if (file === undefined) {
    if (contentType !== undefined) throw new MusterError("invalid-request", "--content-type is for a body from --file");
    const body = parseBody(words);
    return body === undefined ? {} : { body };
  }
  if (contentType !== undefined && !/^application\/json\b/.test(contentType)) {
    return { contentType, bodyBase64: (await readBytes(session.terminal, file)).toString("base64") };
  }
  const text = await readText(session.terminal, file);
  try {
    return { body: JSON.parse(text) };
  } catch (error) {
    throw new MusterError(
      "invalid-request",
      `${file} is not JSON (${(error as Error).message}): say what it is by --content-type`,
    );
  }
}

async function sendCommand(
  session: Session,
  to: Target,
  name: string,
  words: string[],
  options: SendOptions,
): Promise<ExitCode> {
  const { wait, deadline } = options;
  const body = {
    to,
    name,
    ...(await messageBody(session, words, options)),
    ...(deadline === undefined ? {} : { deadlineMs: deadline }),
  };
  const answer = await session.bridge.ask<{ id: string }>({ method: "POST", path: "/v1/commands", body });
  const { id } = answer.body;
  if (wait) return await awaitCommand(session, id);
  await session.print(answer.body, (style) => `sent ${style.bold(plain(name))} to ${targetText(to)}: ${id}`);
  await session.note(`What became of it: muster commands show ${id}`);
  return exitCodes.ok;
}

const endings = new Set(["done", "failed", "expired", "dead-lettered"]);

/** Until each target has ended the command, or --timeout. */
async function awaitCommand(session: Session, id: string): Promise<ExitCode> {
  let last: TrackedCommand | undefined;
  for await (const body of session.states<TrackedCommand>({ path: path`/v1/commands/${id}` }, session.timeoutMs)) {
    last = body;
    if (Object.values(body.targets).every(({ state }) => endings.has(state))) break;
  }
  const command = last as TrackedCommand;
  await session.print(command, (style) => commandText(command, style, session.columns));
  const states = Object.values(command.targets).map(({ state }) => state);
  if (!states.every((state) => endings.has(state))) {
    await session.note(`Not ended everywhere yet; go on waiting with: muster commands show ${id} --wait`);
    return exitCodes.timeout;
  }
  return states.every((state) => state === "done") ? exitCodes.ok : exitCodes.failed;
}

function commandText(
  { id, to, name, sentAt, deadlineAt, targets }: TrackedCommand,
  style: Style,
  columns?: number,
): string {
  const head = details(
    [
      ["command", `${style.bold(plain(name))} to ${targetText(to)}`],
      ["id", id],
      ["sent", moment(sentAt)],
      ["deadline", moment(deadlineAt)],
    ],
    style,
  );
  const rows = Object.entries(targets).map(([component, state]) => ({ component, ...state }));
  const shape: Column<(typeof rows)[number]>[] = [
    { title: "COMPONENT", of: ({ component }) => component },
    { title: "STATE", of: ({ state }) => state, paint: (cell) => endText(cell, style) },
    { title: "AT", of: ({ at }) => moment(at), paint: style.dim },
    { title: "ATTEMPT", of: ({ attempt }) => attempt, align: "right", optional: true },
    { title: "REASON", of: ({ reason }) => reason, optional: true },
  ];
  return rows.length === 0 ? head : `${head}\n\n${table(shape, rows, style, columns)}`;
}

function endText(state: string, style: Style): string {
  if (state === "done") return style.green(state);
  return endings.has(state) ? style.red(state) : style.yellow(state);
}

/** The coordinator says when time is up; it gets this long to say it. */
const graceMs = 5_000;

async function request(
  session: Session,
  to: Target,
  name: string,
  words: string[],
  options: BodyOptions,
): Promise<ExitCode> {
  const { timeoutMs } = session;
  const body = { to, name, ...(await messageBody(session, words, options)), timeoutMs };
  const answer = await session.bridge.ask<RequestAnswer>({
    method: "POST",
    path: "/v1/requests",
    body,
    timeoutMs: timeoutMs + graceMs,
  });
  const told = answer.body;
  if (!("replies" in told)) {
    await session.print(told, (style) => replyText(told, style));
    return exitCodes.ok;
  }
  const { replies, missing } = told;
  await session.print(told, (style) => repliesText(replies, missing, style, session.columns));
  if (replies.some(({ error }) => error !== undefined)) return exitCodes.failed;
  return missing.length > 0 ? exitCodes.timeout : exitCodes.ok;
}

function replyText(reply: Reply & { contentType?: string; bodyBase64?: string }, style: Style): string {
  const { body, contentType, bodyBase64 } = reply;
  if (bodyBase64 === undefined) return coloredJson(body, style);
  const bytes = Buffer.from(bodyBase64, "base64");
  return /^text\//.test(contentType ?? "")
    ? bytes.toString("utf8")
    : style.dim(`${bytes.length} bytes of ${contentType}; see -o json`);
}

function repliesText(replies: Reply[], missing: string[], style: Style, columns?: number): string {
  const rows = [
    ...replies.map((reply) => ({
      from: reply.from,
      text: reply.error === undefined ? short(reply.body) : errorText(reply.error),
      ok: reply.error === undefined,
    })),
    ...missing.map((from) => ({ from, text: "no reply", ok: false })),
  ];
  if (rows.length === 0) return style.dim("nobody replied");
  const shape: Column<(typeof rows)[number]>[] = [
    { title: "FROM", of: ({ from }) => from, paint: style.bold },
    { title: "REPLY", of: ({ text }) => text, paint: (cell, { ok }) => (ok ? cell : style.red(cell)) },
  ];
  return table(shape, rows, style, columns);
}

function errorText(error: NonNullable<Reply["error"]>): string {
  return typeof error === "string" ? error : (error.detail ?? error.code ?? short(error));
}
