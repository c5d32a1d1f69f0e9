/** `muster components`: who is there, what happens to them, and taking one away. */
import { type Command, Option } from "commander";
import { MusterError } from "../../../config-db/errors.ts";
import type { ComponentDocument } from "../../../config-db/generated/types.ts";
import { limits } from "../../../config-db/limits.ts";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import type { Invocation } from "../invocation.ts";
import { statusText } from "../layer-text.ts";
import type { Session } from "../session.ts";
import { plain, type Style, short } from "../style.ts";
import { type Column, count, details, duration, moment, table } from "../table.ts";
import { collect, parseCount, parseValue } from "../values.ts";

/** A component as the bridge tells of it. */
export type Component = Omit<ComponentDocument, "_id" | "_rev" | "kind" | "schemaVersion" | "state"> & {
  state: string;
  lastKnownState?: string;
};

interface Filters {
  type?: string;
  subsystem?: string;
  site?: string;
  tag?: string[];
  state?: string;
  health?: string;
  metadata?: string[];
}

const next = { "not-found": "See who is there with: muster components ls --state any" };

export function componentCommands(program: Command, cli: Invocation): void {
  const group = program
    .command("components")
    .alias("component")
    .summary("find components, follow what happens to them")
    .description("Find components and follow what happens to them.");

  withExamples(
    filtered(group.command("ls").description("List components."))
      .option("-w, --watch", "go on: a line for whatever happens to them")
      .option("--limit <n>", "at most so many", parseCount(1, 1_000_000))
      .action(
        cli.does<[], Filters & { watch?: true; limit?: number }>(
          async (session, _none, { watch, limit, ...filters }) => {
            if (watch) return await watchComponents(session, filters);
            const components = await listComponents(session, filters, limit);
            await session.print({ components }, (style) => listText(components, style, session.columns));
          },
        ),
      ),
    { line: "muster components ls", does: "all that are up" },
    { line: "muster components ls --type collector --tag indoor" },
    { line: "muster components ls --state any --metadata floor=3" },
    { line: "muster components ls -o json | jq -r '.components[].id'", does: "for scripts" },
  );

  withExamples(
    filtered(
      group.command("watch").description("Follow components: those that are there, then what happens to them."),
    ).action(cli.does<[], Filters>((session, _none, filters) => watchComponents(session, filters))),
    { line: "muster components watch --type collector" },
    { line: "muster components watch --state any -o json", does: "a line of JSON for each event" },
  );

  withExamples(
    group
      .command("show")
      .description("Show a component.")
      .argument("<component>", "its id")
      .option("-w, --watch", "go on: show it again whenever it changes")
      .action(
        cli.does<[string], { watch?: true }>(async (session, [id], { watch }) => {
          const request = { path: path`/v1/components/${id}` };
          const tell = (body: Component) => session.print(body, (style) => showText(body, style));
          if (!watch) return await tell((await session.bridge.ask<Component>(request)).body);
          for await (const body of session.states<Component>(request)) await tell(body);
        }, next),
      ),
    { line: "muster components show collector-1" },
    { line: "muster components show collector-1 --watch" },
  );

  withExamples(
    group
      .command("rm")
      .description("Sign components off. Their queues stay for the retention time, unless purged.")
      .argument("<component...>", "their ids")
      .option("--purge", "remove at once: what waits in their queues becomes dead letters")
      .action(
        cli.does<[string[]], { purge?: true }>(async (session, [ids], { purge }) => {
          for (const id of ids) {
            await session.bridge.ask({ method: "DELETE", path: path`/v1/components/${id}`, query: { purge } });
          }
          const done = purge ? "removed" : "signed off";
          await session.print(
            { components: ids, [purge ? "removed" : "gone"]: true },
            () => `${ids.join(", ")} ${done}`,
          );
        }, next),
      ),
    { line: "muster components rm probe-1", does: "as if it had signed off itself" },
    { line: "muster components rm probe-2 --purge", does: "for good, with its queues" },
  );
}

function filtered(command: Command): Command {
  const states = ["up", "expired", "gone", "unverified", "any"];
  return command
    .option("--type <type>", "of this type")
    .option("--subsystem <subsystem>", "of this sub-system")
    .option("--site <site>", "at this site")
    .option("--tag <tag>", "with this tag; may be given again, for those with all of them", collect)
    .option("--metadata <name=value>", "whose metadata says so; may be given again", collect)
    .addOption(new Option("--state <state>", "in this state; up, unless given").choices(states))
    .addOption(new Option("--health <health>", "that report this health").choices(["passing", "warning", "failing"]));
}

function query({ metadata = [], tag, ...filters }: Filters): Record<string, string | undefined> {
  const pairs = metadata.map((text): [string, string] => {
    const equals = text.indexOf("=");
    if (equals < 1) throw new MusterError("invalid-request", `--metadata takes name=value, got "${text}"`);
    return [`metadata.${text.slice(0, equals)}`, String(parseValue(text.slice(equals + 1)))];
  });
  return { ...filters, tag: tag?.join(","), ...Object.fromEntries(pairs) };
}

/** All pages, up to `limit` components. */
export async function listComponents(
  session: Session,
  filters: Filters,
  limit = Number.POSITIVE_INFINITY,
): Promise<Component[]> {
  const found: Component[] = [];
  let cursor: string | undefined;
  do {
    const page = Math.min(limits.page.max, limit - found.length);
    const { body } = await session.bridge.ask<{ components: Component[]; cursor?: string }>({
      path: "/v1/components",
      query: { ...query(filters), limit: page, cursor },
    });
    found.push(...body.components);
    cursor = body.cursor;
  } while (cursor !== undefined && found.length < limit);
  return found;
}

async function watchComponents(session: Session, filters: Filters): Promise<void> {
  const request = { path: "/v1/components", query: query(filters) };
  for await (const event of session.events<Component | { components: Component[] }>(request)) {
    await session.printEvent(event, (style) =>
      "components" in event.data
        ? listText(event.data.components, style, session.columns)
        : eventText(event.event, event.data, style),
    );
  }
}

function eventText(event: string, component: Component, style: Style): string {
  const { id, type, site, changedAt } = component;
  const what = stateText(event === "changed" ? component.state : event, style, event.padEnd(10));
  return `${style.dim(moment(changedAt))}  ${what}  ${style.bold(plain(id))}  ${style.dim(`${plain(type)} at ${plain(site)}`)}`;
}

function listText(components: Component[], style: Style, columns?: number): string {
  if (components.length === 0) return style.dim("no components");
  const shape: Column<Component>[] = [
    { title: "ID", of: ({ id }) => id, paint: style.bold },
    { title: "TYPE", of: ({ type }) => type },
    { title: "SUBSYSTEM", of: ({ subsystem }) => subsystem, optional: true },
    { title: "SITE", of: ({ site }) => site },
    { title: "STATE", of: ({ state }) => state, paint: (cell, { state }) => stateText(state, style, cell) },
    { title: "HEALTH", of: ({ health }) => health?.status, paint: (cell) => healthText(cell, style), optional: true },
    { title: "VERSION", of: ({ version }) => version, optional: true },
    { title: "CONFIG", of: ({ configStatus }) => configStatus?.status, paint: (cell) => statusText(cell, style) },
    { title: "SINCE", of: ({ changedAt }) => moment(changedAt), paint: style.dim },
    { title: "TAGS", of: ({ tags }) => tags?.join(","), paint: style.dim, optional: true },
  ];
  const total = style.dim(count(components.length, "component"));
  return `${table(shape, components, style, columns)}\n${total}`;
}

function showText(component: Component, style: Style): string {
  const { id, type, subsystem, site, state, lastKnownState, version, tags = [], ttlMs, incarnation } = component;
  const { registeredAt, changedAt, health, configStatus, endpoints = {}, metadata = {} } = component;
  const known = lastKnownState === undefined ? "" : style.dim(` (last known: ${lastKnownState})`);
  const why = (reason: string | undefined) => (reason === undefined || reason === "" ? "" : `: ${plain(reason)}`);
  return details(
    [
      ["id", style.bold(plain(id))],
      ["type", type],
      ["subsystem", subsystem],
      ["site", site],
      ["state", stateText(state, style) + known],
      ["health", health && healthText(health.status, style) + why(health.reason)],
      ["version", version && plain(version)],
      ["tags", tags.map(plain).join(", ")],
      ["lease", `${duration(ttlMs)}, incarnation ${incarnation}`],
      ["registered", moment(registeredAt)],
      ["changed", moment(changedAt)],
      [
        "config",
        configStatus && `${statusText(configStatus.status, style)} ${configStatus.etag}${why(configStatus.reason)}`,
      ],
      ...Object.entries(endpoints).map(([name, url]): [string, string] => [`endpoint ${plain(name)}`, plain(url)]),
      ...Object.entries(metadata).map(([name, value]): [string, string] => [`metadata ${plain(name)}`, short(value)]),
    ],
    style,
  );
}

export function stateText(state: string, style: Style, text = state): string {
  if (state === "up") return style.green(text);
  if (state === "expired" || state === "removed") return style.red(text);
  return state === "unverified" ? style.yellow(text) : style.dim(text);
}

function healthText(health: string, style: Style): string {
  if (health === "passing") return style.green(health);
  return health === "failing" ? style.red(health) : style.yellow(health);
}
