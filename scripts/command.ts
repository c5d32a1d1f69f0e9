import { spawn } from "node:child_process";

export interface CommandOptions {
  env?: NodeJS.ProcessEnv;
  /** Called with every full line of both outputs. */
  onLine?: (line: string) => void;
  /** Ends the command with SIGTERM. */
  signal?: AbortSignal;
}

/** A command that could not be started or did not exit with 0. The message ends with its last lines. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}

/** Lines kept for the error message: enough for a package manager's reason, short enough to read. */
const tailLines = 15;

/**
 * Runs a command to its end, without a terminal and without a shell.
 * @throws CommandError when it cannot be started, exits with another code than 0, or is aborted.
 */
export async function runCommand(command: string, args: string[], options: CommandOptions = {}): Promise<void> {
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: options.env ?? process.env,
    ...(options.signal && { signal: options.signal }),
  });
  const tail: string[] = [];
  const take = (line: string) => {
    tail.push(line);
    if (tail.length > tailLines) tail.shift();
    options.onLine?.(line);
  };
  eachLine(child.stdout, take);
  eachLine(child.stderr, take);
  const { code, signal, error } = await new Promise<{ code?: number | null; signal?: string | null; error?: Error }>(
    (resolve) => {
      child.once("error", (error) => resolve({ error }));
      child.once("close", (code, signal) => resolve({ code, signal }));
    },
  );
  if (code === 0) return;
  const how = error ? error.message : signal ? `ended by ${signal}` : `exit code ${code}`;
  throw new CommandError([`${command} ${args.join(" ")}: ${how}`, ...tail.map((line) => `  ${line}`)].join("\n"));
}

/** Calls `take` for each line of `stream`, the last one also when no line end follows it. */
export function eachLine(stream: NodeJS.ReadableStream, take: (line: string) => void): void {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(line);
  });
  stream.on("end", () => {
    if (rest !== "") take(rest);
  });
}
