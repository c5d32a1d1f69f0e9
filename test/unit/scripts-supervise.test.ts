import { expect } from "chai";
import { type RunningService, type Service, type SupervisionEvent, Supervisor } from "../../scripts/supervise.ts";
import { eventually } from "../support/eventually.ts";

/** A service in memory that can be made to die, and that writes down what is done to it. */
class Fake implements Service {
  readonly name: string;
  readonly diary: string[];
  starts = 0;
  failsToStart = 0;
  die: (how: string) => void = () => undefined;

  constructor(name: string, diary: string[]) {
    this.name = name;
    this.diary = diary;
  }

  async start(signal: AbortSignal): Promise<RunningService> {
    signal.throwIfAborted();
    this.starts += 1;
    if (this.failsToStart > 0) {
      this.failsToStart -= 1;
      throw new Error(`${this.name} cannot start`);
    }
    this.diary.push(`start ${this.name}`);
    let end: (how: string) => void = () => undefined;
    const exited = new Promise<string>((resolve) => {
      end = resolve;
    });
    this.die = end;
    let closed = false;
    const close = async () => {
      if (closed) return;
      closed = true;
      this.diary.push(`close ${this.name}`);
      end("closed");
    };
    return { pid: this.starts, exited, close };
  }
}

const quick = { firstMs: 1, maxMs: 2, healthyMs: 1_000 };

function supervised() {
  const diary: string[] = [];
  const events: SupervisionEvent[] = [];
  const [broker, coordinator, demo] = [
    new Fake("broker", diary),
    new Fake("coordinator", diary),
    new Fake("demo", diary),
  ];
  const supervisor = new Supervisor([broker, coordinator, demo], {
    policy: quick,
    onEvent: (event) => events.push(event),
  });
  return { diary, events, broker, coordinator, demo, supervisor };
}

describe("a supervisor", () => {
  it("starts in order and stops in the reverse order", async () => {
    const { diary, supervisor } = supervised();
    await supervisor.start();
    await supervisor.close();
    expect(diary).to.deep.equal([
      ...["start broker", "start coordinator", "start demo"],
      ...["close demo", "close coordinator", "close broker"],
    ]);
  });

  it("starts again what died, and only that", async () => {
    const { broker, coordinator, demo, supervisor } = supervised();
    await supervisor.start();
    coordinator.die("SIGKILL");
    await eventually(() => expect(coordinator.starts).to.equal(2));
    expect([broker.starts, demo.starts]).to.deep.equal([1, 1]);
    await supervisor.close();
  });

  it("cleans up after what died before it starts it again", async () => {
    const { diary, broker, supervisor } = supervised();
    await supervisor.start();
    broker.die("SIGKILL");
    await eventually(() => expect(broker.starts).to.equal(2));
    expect(diary.slice(3)).to.deep.equal(["close broker", "start broker"]);
    await supervisor.close();
  });

  it("keeps trying while a restart fails", async () => {
    const { broker, events, supervisor } = supervised();
    await supervisor.start();
    broker.failsToStart = 3;
    broker.die("SIGKILL");
    await eventually(() => expect(broker.starts).to.equal(5));
    expect(events.filter(({ type }) => type === "failed")).to.have.length(3);
    await supervisor.close();
  });

  it("throws the reason of a first start that fails, and stops what it had started", async () => {
    const { diary, coordinator, demo, supervisor } = supervised();
    coordinator.failsToStart = 1;
    const error = await supervisor.start().catch((error: unknown) => error);
    expect(error).to.be.an("error").with.property("message", "coordinator cannot start");
    expect(diary).to.deep.equal(["start broker", "close broker"]);
    expect(demo.starts).to.equal(0);
  });

  it("tells what died of what, and when it is back", async () => {
    const { events, demo, supervisor } = supervised();
    await supervisor.start();
    events.length = 0;
    demo.die("exit code 3");
    await eventually(() => expect(events).to.have.length(3));
    expect(events.map(({ type, service }) => `${service} ${type}`)).to.deep.equal([
      "demo died",
      "demo starting",
      "demo ready",
    ]);
    expect(events[0]).to.have.property("how", "exit code 3");
    await supervisor.close();
  });

  it("starts nothing any more once it is told to stop", async () => {
    const { broker, coordinator, supervisor } = supervised();
    await supervisor.start();
    broker.die("SIGKILL");
    coordinator.die("SIGKILL");
    await supervisor.close();
    expect([broker.starts, coordinator.starts]).to.deep.equal([1, 1]);
  });

  it("gives up a start under way when it is told to stop", async () => {
    const diary: string[] = [];
    const slow: Service = {
      name: "slow",
      start: async (signal) =>
        await new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => reject(new Error("given up")));
          diary.push("begin slow");
        }),
    };
    const supervisor = new Supervisor([new Fake("broker", diary), slow]);
    const started = supervisor.start().catch((error: Error) => error.message);
    await eventually(() => expect(diary).to.include("begin slow"));
    await supervisor.close();
    expect(await started).to.equal("given up");
    expect(diary).to.deep.equal(["start broker", "begin slow", "close broker"]);
  });

  it("may be closed again, and before it was started", async () => {
    const { diary, supervisor } = supervised();
    await supervisor.close();
    await supervisor.close();
    expect(diary).to.deep.equal([]);
  });
});
