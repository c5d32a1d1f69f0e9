/** `muster config stage|promote|withdraw`: a change for some components first. */
import type { Command } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { type Candidate, candidateText, layerText } from "../layer-text.ts";
import { type Layer, type ProposalOptions, proposing, readLayer, readProposal, settingsAfter } from "../proposal.ts";
import { collect, parseCount } from "../values.ts";

interface Selection {
  tag?: string[];
  site?: string[];
  component?: string[];
  percent?: number;
}

interface StageOptions extends ProposalOptions, Selection {
  note?: string;
  promoteWhenApplied?: number;
  keepOnReject?: true;
}

const next = {
  refused: "Nothing was staged. Correct it; muster config validate tries a change without making it.",
  conflict: "The layer was changed since: look at muster config history <layer> --diff, and stage the change again.",
  "not-found": "No change of that layer is staged: see muster config get <layer> --candidate",
};

export function configStageCommands(group: Command, cli: Invocation): void {
  withExamples(
    proposing(group.command("stage"))
      .description("Stage a change: only the components that are named get it, until it is promoted or withdrawn.")
      .option("--tag <tag>", "components with this tag; may be given again", collect)
      .option("--site <site>", "components at this site; may be given again", collect)
      .option("--component <component>", "this component; may be given again", collect)
      .option("--percent <n>", "so many of all that the layer is for, always the same ones", parseCount(1, 100))
      .option("--promote-when-applied <n>", "promote by itself once n have applied it", parseCount(1, 1_000_000))
      .option("--keep-on-reject", "stay staged when a component rejects it; else it is withdrawn by itself")
      .option("-m, --note <text>", "why, for the history")
      .action(
        cli.does<[string, string[]], StageOptions>(async (session, [layer, pairs], options) => {
          const selector = selectorOf(options);
          const proposal = await readProposal(session, pairs, options);
          const settings = settingsAfter((await readLayer(session, layer))?.layer.settings ?? {}, proposal);
          const { note, promoteWhenApplied, keepOnReject } = options;
          const { body } = await session.bridge.ask<Candidate>({
            method: "PUT",
            path: path`/v1/config/layers/${layer}/candidate`,
            body: {
              settings,
              selector,
              withdrawOnReject: keepOnReject !== true,
              ...(note === undefined ? {} : { note }),
              ...(promoteWhenApplied === undefined ? {} : { promoteWhen: { applied: promoteWhenApplied } }),
            },
          });
          await session.print(body, (style) => candidateText(body, style, session.columns));
        }, next),
      ),
    { line: "muster config stage type:collector samplingIntervalMs=250 --tag canary" },
    { line: "muster config stage type:collector -f settings.json --percent 10 --promote-when-applied 3" },
  );

  withExamples(
    group
      .command("promote")
      .description("Make the staged change of a layer the layer's own.")
      .argument("<layer>", "such as type:collector")
      .option("-m, --note <text>", "why, for the history")
      .action(
        cli.does<[string], { note?: string }>(async (session, [layer], options) => {
          const { body } = await session.bridge.ask<Layer>({
            method: "POST",
            path: path`/v1/config/layers/${layer}/candidate/promote`,
            body: options,
          });
          await session.print(body, (style) => layerText(body, style));
        }, next),
      ),
    { line: "muster config promote type:collector" },
  );

  withExamples(
    group
      .command("withdraw")
      .description("Take the staged change of a layer back.")
      .argument("<layer>", "such as type:collector")
      .action(
        cli.does<[string]>(async (session, [layer]) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/config/layers/${layer}/candidate` });
          await session.print({ layer, withdrawn: true }, () => `the staged change of ${layer} is withdrawn`);
        }, next),
      ),
    { line: "muster config withdraw type:collector" },
  );
}

function selectorOf({ tag, site, component, percent }: Selection): Record<string, unknown> {
  const selector = {
    ...(tag === undefined ? {} : { tags: tag }),
    ...(site === undefined ? {} : { sites: site }),
    ...(component === undefined ? {} : { components: component }),
    ...(percent === undefined ? {} : { percent }),
  };
  if (Object.keys(selector).length > 0) return selector;
  throw new MusterError(
    "invalid-request",
    "whom is it for? Give --tag, --site, --component or --percent; muster config set is for all",
  );
}
