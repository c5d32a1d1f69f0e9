/** `muster config status`: who has applied what. */
import type { Command } from "commander";
import type { BridgeRequest } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import { type ExitCode, exitCodes } from "../exit-codes.ts";
import type { Invocation } from "../invocation.ts";
import { type ComponentStatus, statusTable } from "../layer-text.ts";
import type { Session } from "../session.ts";
import { plain, type Style } from "../style.ts";
import { count } from "../table.ts";

export interface StatusCounts {
  total: number;
  applied: number;
  rejected: number;
  pending: number;
}

interface Status extends StatusCounts {
  components: ComponentStatus[];
}

export function configStatusCommands(group: Command, cli: Invocation): void {
  withExamples(
    group
      .command("status")
      .description("Show how many components have applied their settings, who rejected them and why.")
      .option("--type <type>", "components of this type only")
      .option("-w, --watch", "go on: a line whenever it changes")
      .option("--wait", "until none is pending: ends with 0 when all applied, 1 when one rejected, 6 after --timeout")
      .action(
        cli.does<[], { type?: string; watch?: true; wait?: true }>(async (session, _none, { type, watch, wait }) => {
          const request = { path: "/v1/config/status", query: { type } };
          if (watch || wait) return await follow(session, request, watch === true);
          const { body } = await session.bridge.ask<Status>(request);
          await session.print(body, (style) => statusText(body, style, session.columns));
          return exitCodes.ok;
        }),
      ),
    { line: "muster config status", does: "of all components" },
    { line: "muster config status --type collector --wait --timeout 10s", does: "for scripts, after a change" },
    { line: "muster config status --watch" },
  );
}

async function follow(session: Session, request: BridgeRequest, forever: boolean): Promise<ExitCode> {
  let last: Status | undefined;
  for await (const body of session.states<Status>(request, forever ? undefined : session.timeoutMs)) {
    last = body;
    await session.print(body, (style) => countsText(body, style));
    if (!forever && body.pending === 0) break;
  }
  const components = last?.components ?? [];
  const rejected = components.filter(({ status }) => status === "rejected");
  const pending = components.filter(({ status }) => status === "pending");
  for (const { id, reason } of rejected)
    await session.note(`${plain(id)} rejected: ${plain(reason || "no reason given")}`);
  if (pending.length > 0) await session.note(`still pending: ${pending.map(({ id }) => plain(id)).join(", ")}`);
  if (rejected.length > 0) return exitCodes.failed;
  return pending.length > 0 ? exitCodes.timeout : exitCodes.ok;
}

/** In one line. */
export function countsText({ total, applied, rejected, pending }: StatusCounts, style: Style): string {
  if (total === 0) return style.dim("no components");
  const parts = [`${applied} of ${count(total, "component")} applied`];
  if (rejected > 0) parts.push(style.red(`${rejected} rejected`));
  if (pending > 0) parts.push(style.yellow(`${pending} pending`));
  return parts.join(", ");
}

function statusText(body: Status, style: Style, columns?: number): string {
  const counts = countsText(body, style);
  return body.components.length === 0 ? counts : `${statusTable(body.components, style, columns)}\n${counts}`;
}
