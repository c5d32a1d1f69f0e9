/** The `muster` command in this process: what it prints and how it ends. */
import { PassThrough, Readable } from "node:stream";
import type { ExitCode } from "../../clients/cli/exit-codes.ts";
import { run } from "../../clients/cli/run.ts";
import type { Screen } from "../../clients/cli/terminal.ts";

export interface MusterRun {
  /** Everything so far, from both outputs. */
  readonly stdout: string;
  readonly stderr: string;
  /** Resolves with the exit code. */
  ended: Promise<ExitCode>;
  /** Ctrl-C. */
  interrupt(): void;
}

export interface MusterOptions {
  env?: Record<string, string | undefined>;
  stdin?: string | Buffer;
  /** Makes stdout a terminal of this width. */
  columns?: number;
}

/** Starts it and returns at once: for commands that go on. */
export function startMuster(argv: string[], { env = {}, stdin = "", columns }: MusterOptions = {}): MusterRun {
  const interrupt = new AbortController();
  const [stdout, stderr] = [collector(columns), collector()];
  const terminal = {
    stdin: Readable.from([stdin]),
    stdout: stdout.stream,
    stderr: stderr.stream,
    env,
    signal: interrupt.signal,
  };
  return {
    get stdout() {
      return stdout.text();
    },
    get stderr() {
      return stderr.text();
    },
    ended: run(argv, terminal),
    interrupt: () => interrupt.abort(),
  };
}

/** Runs it to its end. */
export async function muster(
  argv: string[],
  options: MusterOptions = {},
): Promise<{ exitCode: ExitCode; stdout: string; stderr: string }> {
  const started = startMuster(argv, options);
  const exitCode = await started.ended;
  return { exitCode, stdout: started.stdout, stderr: started.stderr };
}

function collector(columns?: number): { stream: Screen; text(): string } {
  const chunks: Buffer[] = [];
  const stream: Screen = new PassThrough();
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  if (columns !== undefined) Object.assign(stream, { isTTY: true, columns, hasColors: () => true });
  return { stream, text: () => Buffer.concat(chunks).toString("utf8") };
}
