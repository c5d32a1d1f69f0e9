/** What a command works with: the coordinator that the global options name, and a way to answer in the form they ask for. */
import { once } from "node:events";
import { createInterface } from "node:readline/promises";
import { MusterError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import { BridgeClient, type BridgeRequest, type StreamEvent } from "./bridge.ts";
import { jsonText, type Style, style } from "./style.ts";
import { type Screen, type Terminal, wantsColor } from "./terminal.ts";
import { parseDuration } from "./values.ts";

export interface GlobalOptions {
  url?: string;
  token?: string;
  output?: "table" | "json";
  timeout?: string;
  as?: string;
}

export const defaultUrl = "http://127.0.0.1:8080";
/** A coordinator answers in milliseconds; half a minute covers one that starts or a slow line. */
const defaultTimeout = "30s";

export class Session {
  readonly terminal: Terminal;
  readonly bridge: BridgeClient;
  /** How long an answer may take. */
  readonly timeoutMs: number;
  readonly json: boolean;
  /** For what goes to stdout. */
  readonly style: Style;
  readonly #errorStyle: Style;
  readonly #options: GlobalOptions;

  /** @throws MusterError `invalid-request` for a URL or duration that is none. */
  constructor(terminal: Terminal, options: GlobalOptions) {
    const { env } = terminal;
    this.terminal = terminal;
    this.#options = options;
    this.json = options.output === "json";
    this.timeoutMs = parseDuration(options.timeout ?? defaultTimeout);
    this.style = style(wantsColor(terminal.stdout, env));
    this.#errorStyle = style(wantsColor(terminal.stderr, env));
    this.bridge = new BridgeClient({
      urls: parseUrls(options.url ?? (env.MUSTER_URL || defaultUrl)),
      token: options.token ?? (env.MUSTER_TOKEN || undefined),
      // Header values are Latin-1 at best; the bridge keeps ASCII.
      author: (options.as ?? env.USER ?? env.USERNAME ?? "").replaceAll(/[^\x20-\x7e]/g, "") || undefined,
      timeoutMs: this.timeoutMs,
      signal: terminal.signal,
    });
  }

  /** The same with another URL. */
  at(url: string): Session {
    return new Session(this.terminal, { ...this.#options, url });
  }

  /** The width to draw tables in; undefined where nothing is cut. */
  get columns(): number | undefined {
    return this.terminal.stdout.isTTY === true ? this.terminal.stdout.columns : undefined;
  }

  /** True when a person sits there who can be asked. */
  get isInteractive(): boolean {
    return this.terminal.stdin.isTTY === true && this.terminal.stderr.isTTY === true && !this.json;
  }

  /** Answers: `body`, the wire's, as JSON, or what `render` makes of it. */
  async print(body: unknown, render: (style: Style) => string): Promise<void> {
    const text = this.json ? jsonText(body, 2) : render(this.style);
    if (text !== "") await this.#write(this.terminal.stdout, `${text}\n`);
  }

  /** One event of a stream: a line of JSON `{event, id?, data}`, or what `render` makes of it. */
  async printEvent(event: StreamEvent, render: (style: Style) => string): Promise<void> {
    const text = this.json ? jsonText(event) : render(this.style);
    if (text !== "") await this.#write(this.terminal.stdout, `${text}\n`);
  }

  /** Exactly these characters or bytes. */
  async printRaw(content: string | Buffer): Promise<void> {
    await this.#write(this.terminal.stdout, content);
  }

  /** A word to the person at the terminal, beside the answer; nothing with `-o json`. */
  async note(text: string): Promise<void> {
    if (!this.json) await this.#write(this.terminal.stderr, `${this.#errorStyle.dim(text)}\n`);
  }

  /** Asks the person at the terminal; the last of `choices` where the terminal is closed. */
  async choose(question: string, choices: string[]): Promise<string> {
    const { stdin, stderr, signal } = this.terminal;
    const lines = createInterface({ input: stdin, output: stderr });
    // readline takes Ctrl-C for itself where it owns the terminal.
    lines.once("SIGINT", () => process.kill(process.pid, "SIGINT"));
    try {
      for (;;) {
        const closed = once(lines, "close").then(() => choices.at(-1) ?? "");
        const answer = (await Promise.race([lines.question(`${question}: `, { signal }), closed])).trim().toLowerCase();
        const chosen = choices.find((choice) => answer !== "" && choice.startsWith(answer.slice(0, 1)));
        if (chosen !== undefined) return chosen;
      }
    } finally {
      lines.close();
    }
  }

  /** A stream's events; breaks are told and bridged. */
  events<Data>(request: BridgeRequest): AsyncGenerator<StreamEvent<Data>> {
    return this.bridge.stream<Data>(request, (error) => {
      if (!this.json) this.terminal.stderr.write(`${this.#errorStyle.dim(`${error.message}; connecting again …`)}\n`);
    });
  }

  /**
   * Each state of what stands at `request`, the present one first, by long poll. Ends at `deadlineMs` from now.
   * @throws MusterError as `ask`
   */
  async *states<Body>(request: BridgeRequest, deadlineMs = Number.POSITIVE_INFINITY): AsyncGenerator<Body> {
    const start = performance.now();
    let etag: string | undefined;
    for (;;) {
      const leftMs = Math.floor(start + deadlineMs - performance.now());
      if (etag !== undefined && leftMs <= 0) return;
      const waitMs = Math.min(limits.waitMs, leftMs);
      const waiting = etag === undefined ? {} : { query: { ...request.query, waitMs }, ifNoneMatch: etag };
      const timeoutMs = this.timeoutMs + (etag === undefined ? 0 : waitMs);
      const answer = await this.bridge.ask<Body>({ ...request, ...waiting, timeoutMs });
      if (answer.status === 304) continue;
      // Without an etag there is nothing to wait by, and asking on would be a storm.
      if (answer.etag === "")
        throw new MusterError("no-such-route", `${this.bridge.url} cannot wait at ${request.path}`);
      etag = answer.etag;
      yield answer.body;
    }
  }

  async #write(screen: Screen, content: string | Buffer): Promise<void> {
    if (!screen.write(content)) await once(screen, "drain", { signal: this.terminal.signal });
  }
}

function parseUrls(text: string): string[] {
  const urls = text.split(",").map((url) => url.trim());
  for (const url of urls) {
    if (URL.canParse(url) && /^https?:$/.test(new URL(url).protocol)) continue;
    const told = `"${url}" is no URL of a coordinator: --url and MUSTER_URL look like ${defaultUrl}, commas between several`;
    throw new MusterError("invalid-request", told);
  }
  return urls;
}
