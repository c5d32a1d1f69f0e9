/** `muster config set|edit|rm|rollback|diff|validate`: changing a layer, and trying a change without making it. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { changesBetween, changesText, faultsOf, type Validation, validationText } from "../changes.ts";
import { editText } from "../editor.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import {
  type Layer,
  type Proposal,
  type ProposalOptions,
  parseObject,
  proposing,
  readLayer,
  readProposal,
  settingsAfter,
} from "../proposal.ts";
import type { Session } from "../session.ts";
import { jsonText, type Style } from "../style.ts";
import { parseCount } from "../values.ts";

interface WriteOptions {
  note?: string;
  ifMatch?: string;
}

const changed =
  "Someone changed it meanwhile; nothing was written. See muster config history <layer> --diff, then try again.";
const next = {
  "precondition-failed": changed,
  conflict: changed,
  refused: "Nothing was written. Correct it; muster config validate tries a change without making it.",
  "not-found": "Nobody has written that layer, or it has no such version: see muster config history <layer>",
};

export function configChangeCommands(group: Command, cli: Invocation): void {
  withExamples(
    writing(
      proposing(group.command("set").description("Change settings of a layer, or replace them all by a file.")),
    ).action(
      cli.does<[string, string[]], ProposalOptions & WriteOptions>(async (session, [layer, pairs], options) => {
        const proposal = await readProposal(session, pairs, options);
        const before = (await readLayer(session, layer))?.layer.settings ?? {};
        settingsAfter(before, proposal);
        const written = await writeLayer(session, layer, proposal, options);
        await session.print(written, (style) => writtenText(before, written, style));
      }, next),
    ),
    { line: "muster config set type:collector samplingIntervalMs=500 --note 'slower at night'" },
    {
      line: "muster config set component:collector-1 retry.maxMs=2000 labels='[\"indoor\"]'",
      does: "nested, and a list",
    },
    { line: "muster config set component:collector-1 retry=null", does: "take one away: weaker layers show again" },
    { line: "muster config set type:collector -f settings.json", does: "all settings of the layer" },
    { line: "echo '{\"samplingIntervalMs\": 500}' | muster config set type:collector -f - --merge" },
  );

  withExamples(
    writing(group.command("edit"))
      .description("Edit a layer's settings in $VISUAL or $EDITOR; shows what would change before it writes.")
      .argument("<layer>", "such as type:collector")
      .option("-y, --yes", "write without asking")
      .action(
        cli.does<[string], WriteOptions & { yes?: true }>(
          (session, [layer], options) => editLayer(session, layer, options),
          next,
        ),
      ),
    { line: "muster config edit type:collector" },
    { line: "EDITOR='code --wait' muster config edit platform" },
  );

  withExamples(
    proposing(group.command("diff"))
      .description("Show what a change would do to the layer and to every component, without making it.")
      .action(
        cli.does<[string, string[]], ProposalOptions>(async (session, [layer, pairs], options) => {
          const { before, after, validation } = await tryOut(
            session,
            layer,
            await readProposal(session, pairs, options),
          );
          await session.print({ layer, changes: changesBetween(before, after), ...validation }, (style) =>
            diffText(layer, before, after, validation, style),
          );
          return validation.valid ? exitCodes.ok : exitCodes.failed;
        }, next),
      ),
    { line: "muster config diff type:collector samplingIntervalMs=250" },
    { line: "muster config diff type:collector -f settings.json" },
  );

  withExamples(
    proposing(group.command("validate"))
      .description("Check a change against the schemas without making it; ends with 1 when it would be refused.")
      .action(
        cli.does<[string, string[]], ProposalOptions>(async (session, [layer, pairs], options) => {
          const { validation } = await tryOut(session, layer, await readProposal(session, pairs, options));
          await session.print(validation, (style) => {
            const verdict = validation.valid ? `${style.green("valid")}\n` : "";
            return verdict + validationText(validation, style);
          });
          return validation.valid ? exitCodes.ok : exitCodes.failed;
        }, next),
      ),
    { line: "muster config validate type:collector -f settings.json" },
    { line: "muster config validate type:collector samplingIntervalMs=250" },
  );

  withExamples(
    writing(group.command("rollback"))
      .description("Make an earlier version of a layer the newest one.")
      .argument("<layer>", "such as type:collector")
      .argument("<version>", "see muster config history <layer>", parseCount(1, Number.MAX_SAFE_INTEGER))
      .option("--rev <rev>", "which one, where two sites made that version at once")
      .action(
        cli.does<[string, number], WriteOptions & { rev?: string }>(async (session, [layer, version], options) => {
          const { note, rev, ifMatch } = options;
          const before = (await readLayer(session, layer))?.layer.settings ?? {};
          const { body } = await session.bridge.ask<Layer>({
            method: "POST",
            path: path`/v1/config/layers/${layer}/rollback`,
            body: { version, ...(rev === undefined ? {} : { rev }), ...(note === undefined ? {} : { note }) },
            ifMatch,
          });
          await session.print(body, (style) => writtenText(before, body, style));
        }, next),
      ),
    { line: "muster config rollback type:collector 1 --note 'too slow'" },
  );

  withExamples(
    group
      .command("rm")
      .description("Delete a layer; its history stays, and a rollback brings it back.")
      .argument("<layer>", "such as component:collector-1")
      .option("--if-match <etag>", "only if it is still as it was read")
      .action(
        cli.does<[string], { ifMatch?: string }>(async (session, [layer], { ifMatch }) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/config/layers/${layer}`, ifMatch });
          await session.print({ layer, deleted: true }, () => `${layer} is deleted`);
        }, next),
      ),
    { line: "muster config rm component:collector-1" },
  );
}

function writing(command: Command): Command {
  return command
    .option("-m, --note <text>", "why, for the history")
    .option("--if-match <etag>", "only if the layer is still as it was read");
}

async function writeLayer(
  session: Session,
  layer: string,
  { how, settings }: Proposal,
  options: WriteOptions,
): Promise<Layer> {
  const { note, ifMatch } = options;
  const { body } = await session.bridge.ask<Layer>({
    method: how === "merge" ? "PATCH" : "PUT",
    path: path`/v1/config/layers/${layer}`,
    body: { settings, ...(note === undefined ? {} : { note }) },
    ifMatch,
  });
  return body;
}

function writtenText(before: unknown, { layer, version, settings }: Layer, style: Style): string {
  const changes = changesText(changesBetween(before, settings), style);
  return `${style.bold(layer)} is at version ${version}\n${changes || style.dim("  the same settings as before")}`;
}

async function tryOut(session: Session, layer: string, proposal: Proposal) {
  const before = (await readLayer(session, layer))?.layer.settings ?? {};
  const after = settingsAfter(before, proposal);
  return { before, after, validation: await validate(session, layer, after) };
}

async function validate(session: Session, layer: string, settings: unknown): Promise<Validation> {
  const request = { method: "POST", path: "/v1/config/validate", body: { layer, settings } } as const;
  return (await session.bridge.ask<Validation>(request)).body;
}

function diffText(layer: string, before: unknown, after: unknown, validation: Validation, style: Style): string {
  const changes = changesText(changesBetween(before, after), style);
  const own =
    changes === "" ? style.dim(`${layer} would not change`) : `${style.bold(layer)} would change:\n${changes}`;
  return `${own}\n${validationText(validation, style)}`;
}

/** Edits until what is in the file is valid and wanted. What was typed is never lost: the file stays where it was not written. */
async function editLayer(
  session: Session,
  layer: string,
  { yes, note, ifMatch }: WriteOptions & { yes?: true },
): Promise<ExitCode> {
  if (!yes && !session.isInteractive) {
    throw new MusterError(
      "invalid-request",
      "config edit asks before it writes and there is no terminal here: give --yes",
    );
  }
  const standing = await readLayer(session, layer);
  const before = standing?.layer.settings ?? {};
  const name = `${layer.replaceAll(/[^\w.-]/g, "-")}.json`;
  return await editText(session, { name, text: `${jsonText(before, 2)}\n` }, async (text, file) => {
    const after = parseObject(text, file);
    if (changesBetween(before, after).length === 0) {
      await session.note("Nothing was changed.");
      return { done: exitCodes.ok };
    }
    const validation = await validate(session, layer, after);
    if (!session.json) await session.printRaw(`${diffText(layer, before, after, validation, session.style)}\n`);
    if (!validation.valid) {
      const errors = faultsOf(validation);
      throw new MusterError("refused", `these settings of ${layer} would be refused`, session.json ? { errors } : {});
    }
    if (!yes) {
      const answer = await session.choose("Write it? [y]es, [e]dit again, [n]o", ["y", "e", "n"]);
      if (answer !== "y") return answer === "e" ? "again" : { kept: exitCodes.ok };
    }
    const proposal: Proposal = { how: "replace", settings: after, assignments: [] };
    // A layer that was not there is made only if nobody else made it meanwhile.
    const written = await writeLayer(session, layer, proposal, {
      ...(note && { note }),
      ...guard(ifMatch ?? standing?.etag),
    });
    await session.print(written, (style) => `${style.bold(layer)} is at version ${written.version}`);
    return { done: exitCodes.ok };
  });
}

function guard(etag: string | undefined): { ifMatch?: string } {
  return etag === undefined ? {} : { ifMatch: etag };
}
