/** Lets someone edit a text in their own editor, again as long as it is not right yet. */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import type { ExitCode } from "./exit-codes.ts";
import { describeFailure } from "./failure.ts";
import type { Session } from "./session.ts";
import { style } from "./style.ts";
import { wantsColor } from "./terminal.ts";

/** What became of a text: done with (the file goes), kept for later (the file stays), or to be edited once more. */
export type Edited = { done: ExitCode } | { kept: ExitCode } | "again";

/**
 * Opens `text` in $VISUAL, $EDITOR or vi and hands what was saved to `use`. Where that throws a refusal and a person is
 * there, it offers to edit again; otherwise the file is kept and named, and the error goes on.
 */
export async function editText(
  session: Session,
  { name, text }: { name: string; text: string },
  use: (text: string, file: string) => Promise<Edited>,
): Promise<ExitCode> {
  const directory = await mkdtemp(join(tmpdir(), "muster-edit-"));
  const file = join(directory, name);
  // Settings may be nobody else's business.
  await writeFile(file, text, { mode: 0o600 });
  let keep = true;
  try {
    for (;;) {
      await openEditor(session, file);
      const outcome = await useOrOffer(session, () => readFile(file, "utf8").then((edited) => use(edited, file)));
      if (outcome === "again") continue;
      keep = "kept" in outcome;
      return "kept" in outcome ? outcome.kept : outcome.done;
    }
  } finally {
    if (keep && (await readFile(file, "utf8").catch(() => text)) !== text)
      await session.note(`Your text is kept in ${file}`);
    else await rm(directory, { recursive: true, force: true });
  }
}

async function useOrOffer(session: Session, use: () => Promise<Edited>): Promise<Edited> {
  try {
    return await use();
  } catch (error) {
    const mendable = isMusterError(error, "invalid-request") || isMusterError(error, "refused");
    if (!mendable || !session.isInteractive) throw error;
    const { stderr, env } = session.terminal;
    stderr.write(
      `${describeFailure(error as MusterError, style(wantsColor(stderr, env)), "Edit it again, or stop here.")}\n`,
    );
    const answer = await session.choose("[e]dit again, [q]uit", ["e", "q"]);
    if (answer === "e") return "again";
    throw error;
  }
}

async function openEditor(session: Session, file: string): Promise<void> {
  const { env, signal } = session.terminal;
  const editor = env.VISUAL || env.EDITOR || "vi";
  // By a shell, as git does: editors are set with arguments, and paths with blanks in them quoted.
  // To an editor Ctrl-C is a key like others, but the terminal sends it to all programs in the foreground.
  const takeBack = session.terminal.yieldInterrupts?.();
  const child = spawn("sh", ["-c", `${editor} "$1"`, "sh", file], { stdio: "inherit", env: env as NodeJS.ProcessEnv });
  const ended = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => resolve(code));
  }).finally(takeBack);
  signal.throwIfAborted();
  if (ended === 0) return;
  throw new MusterError(
    "invalid-request",
    `the editor "${editor}" failed (${ended ?? "killed"}): set EDITOR to one that works`,
  );
}
