/** The story that the demo walks: each step does something real and says how long it took until it could be seen. */
import type { Cast } from "./cast.ts";
import type { EventNews, Operator } from "./operator.ts";

export interface Stage {
  operator: Operator;
  cast: Cast;
  say(line: string): void;
}

export const roles = [
  { id: "collector-1", file: "collector.ts" },
  { id: "collector-2", file: "collector.ts" },
  { id: "paas-app", file: "paas-app.mjs" },
];
const collectors = ["collector-1", "collector-2"];
const everyone = roles.map(({ id }) => id);

export async function tellStory({ operator, cast, say }: Stage): Promise<void> {
  let step = 0;
  const tell = (title: string, told: string) => {
    step += 1;
    say(`${String(step).padStart(2)}. ${title.padEnd(26)} ${told}`);
  };

  await operator.configure("collector", { samplingIntervalMs: 1_000 }, "PUT");
  const before = new Map(everyone.map((id) => [id, operator.incarnationOf(id)]));
  const startedMs = performance.now();
  const up = everyone.map(async (id) => {
    await operator.component(id, "up", before.get(id));
    return `${id} ${since(startedMs)}`;
  });
  await cast.start();
  tell("register", `${(await Promise.all(up)).join(", ")} after their processes were started`);

  const etag = await operator.applied("collector", collectors);
  tell("read configuration", `both collectors sample every 1,000 ms, ${since(startedMs)} after their start`);

  const changedMs = performance.now();
  const configured = collectors.map(async (id) => {
    await operator.event(
      ({ name, from, body }) => name === "configured" && from === id && body.samplingIntervalMs === 500,
      id,
    );
    return `${id} ${since(changedMs)}`;
  });
  await operator.configure("collector", { samplingIntervalMs: 500 }, "PATCH");
  const takenOver = await Promise.all(configured);
  await operator.applied("collector", collectors, etag);
  tell("change their type's layer", `to 500 ms: ${takenOver.join(", ")}; both reported it applied ${since(changedMs)}`);

  const one = await send(operator, { component: "collector-1" }, "reset-peaks", ["collector-1"]);
  tell("command to one", `handled by ${one}`);

  tell("broadcast to all", `handled by ${await send(operator, { all: true }, "announce", everyone)}`);

  await operator.event(({ name, from }) => name === "figures" && from === "collector-1", "figures of collector-1");
  const askedMs = performance.now();
  const { body } = await operator.ask<{
    body: { cpuPercent: number; memoryUsedMiB: number; eventLoopDelayP99Ms: number };
  }>({
    method: "POST",
    path: "/v1/requests",
    body: { to: { component: "collector-1" }, name: "figures", timeoutMs: 10_000 },
  });
  tell(
    "request and reply",
    `${since(askedMs)}: collector-1 has CPU ${body.cpuPercent} %, memory ${whole(body.memoryUsedMiB)} MiB, event loop delay ${body.eventLoopDelayP99Ms} ms`,
  );

  const killedMs = performance.now();
  const first = operator.incarnationOf("collector-2");
  cast.kill("collector-2");
  await operator.component("collector-2", "expired");
  tell(
    "kill -9 collector-2",
    `it left discovery ${since(killedMs)} later (its TTL of 5,000 ms runs from its last renewal)`,
  );

  const sentMs = performance.now();
  const sent = await operator.ask<{ id: string }>({
    method: "POST",
    path: "/v1/commands",
    body: { to: { component: "collector-2" }, name: "reset-peaks" },
  });
  tell("command to the dead one", `taken and kept in its queue after ${since(sentMs)}`);

  const revivedMs = performance.now();
  const back = Promise.all([
    operator.component("collector-2", "up", first).then(() => since(revivedMs)),
    operator
      .event(({ name, from }) => name === "configured" && from === "collector-2", "the configuration of collector-2")
      .then((event) => `${whole(event.body.samplingIntervalMs)} ms after ${since(revivedMs)}`),
    operator.event(isHandled(sent.id, "collector-2"), "the command that was kept").then(() => since(revivedMs)),
  ]);
  cast.revive("collector-2");
  const [registered, settings, handled] = await back;
  tell(
    "start it again",
    `registered after ${registered}, its interval of ${settings}, the kept command handled after ${handled}`,
  );

  say("    The demo goes on: the collectors send their figures as events every 500 ms until it is stopped.");
}

/** Sends a command and waits until each of `ids` says that it has handled it. */
async function send(operator: Operator, to: object, name: string, ids: string[]): Promise<string> {
  const startedMs = performance.now();
  // Its id is known only after it was sent; what was heard before that is looked through then.
  const heard: EventNews[] = [];
  const told = ids.map(async (id) => {
    await operator.event((event) => {
      heard.push(event);
      return event.name === "handled" && event.from === id && event.body.name === name;
    }, `${id} to handle "${name}"`);
    return `${id} ${since(startedMs)}`;
  });
  await operator.ask({ method: "POST", path: "/v1/commands", body: { to, name } });
  return (await Promise.all(told)).join(", ");
}

function isHandled(commandId: string, by: string): (event: EventNews) => boolean {
  return ({ name, from, body }) => name === "handled" && from === by && body.id === commandId;
}

function since(startMs: number): string {
  const ms = performance.now() - startMs;
  return `${ms < 10 ? ms.toFixed(1) : whole(ms)} ms`;
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}
