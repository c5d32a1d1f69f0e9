import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { Bridge } from "../../clients/typescript/src/bridge.ts";
import { Configuration } from "../../clients/typescript/src/configuration.ts";
import { DiskCache } from "../../clients/typescript/src/disk-cache.ts";
import { silent } from "../../clients/typescript/src/logger.ts";
import { type Validate, validateBySchema } from "../../clients/typescript/src/validation.ts";
import { eventually } from "../support/eventually.ts";
import { FakeCoordinator, problem } from "../support/fake-coordinator.ts";

interface Settings {
  samplingIntervalMs: number;
}

describe("a component's configuration", () => {
  let coordinator: FakeCoordinator;
  let directory: string;
  const open: Configuration<Settings>[] = [];

  beforeEach(async () => {
    coordinator = new FakeCoordinator();
    await coordinator.start();
    directory = await mkdtemp(join(tmpdir(), "muster-configuration-"));
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((configuration) => configuration.close(100)));
    await coordinator.stop();
    await rm(directory, { recursive: true });
  });

  function make(validate: Validate<Settings> = (settings) => settings as unknown as Settings): Configuration<Settings> {
    const bridge = new Bridge({ urls: [coordinator.url] });
    const cache = new DiskCache(join(directory, "one.json"), silent);
    const configuration = new Configuration<Settings>({ bridge, id: "one", validate, cache, logger: silent });
    open.push(configuration);
    return configuration;
  }

  const reports = () => coordinator.seen("PUT", "/config/status").map(({ body }) => body);

  it("is read, reported as applied, and confirmed by its etag", async () => {
    const configuration = make();
    await configuration.refresh();
    expect(configuration.current).to.deep.equal({ samplingIntervalMs: 1000 });
    expect(configuration.etag).to.equal("e1");
    await eventually(() => expect(reports()).to.deep.equal([{ etag: "e1", status: "applied" }]));
    await configuration.refresh();
    expect(coordinator.seen("GET", "/config")[1]?.headers["if-none-match"]).to.equal('"e1"');
  });

  it("is given to handlers now and at each change, with the previous one", async () => {
    const configuration = make();
    await configuration.refresh();
    const seen: [number, number][] = [];
    await configuration.onChange((settings, { previous }) => {
      seen.push([previous.samplingIntervalMs, settings.samplingIntervalMs]);
    });
    coordinator.configure("e2", { samplingIntervalMs: 500 });
    await configuration.refresh();
    expect(seen).to.deep.equal([
      [1000, 1000],
      [1000, 500],
    ]);
  });

  it("stays as it was when a handler throws, which takes it back from others and is reported", async () => {
    const configuration = make();
    await configuration.refresh();
    const taken: number[] = [];
    await configuration.onChange(({ samplingIntervalMs }) => void taken.push(samplingIntervalMs));
    await configuration.onChange(({ samplingIntervalMs }) => {
      if (samplingIntervalMs < 100) throw new Error("too often");
    });
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    expect(configuration.current.samplingIntervalMs).to.equal(1000);
    expect(configuration.etag).to.equal("e1");
    expect(taken).to.deep.equal([1000, 5, 1000]);
    await eventually(() =>
      expect(reports().at(-1)).to.deep.equal({ etag: "e2", status: "rejected", reason: "too often" }),
    );
  });

  it("is rejected by whatever a handler throws, and taken back from all others even if one of them throws at that", async () => {
    const configuration = make();
    await configuration.refresh();
    const taken: number[] = [];
    await configuration.onChange((_settings, { etag, previous }) => {
      if (etag === "e1" && previous.samplingIntervalMs === 5) throw new Error("not back");
    });
    await configuration.onChange(({ samplingIntervalMs }) => void taken.push(samplingIntervalMs));
    await configuration.onChange(({ samplingIntervalMs }) => {
      if (samplingIntervalMs < 100) throw Object.assign(new Error(), { message: { code: 1 } });
    });
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    expect(taken).to.deep.equal([1000, 5, 1000]);
    const rejected = { etag: "e2", status: "rejected", reason: "{ code: 1 }" };
    await eventually(() => expect(reports().at(-1)).to.deep.equal(rejected));
  });

  it("is rejected by a handler that takes too long, whose signal aborts, and the next one is taken", async () => {
    const configuration = make();
    await configuration.refresh();
    let aborted = false;
    await configuration.onChange(
      ({ samplingIntervalMs }, { signal }) => {
        if (samplingIntervalMs !== 5) return undefined;
        signal.addEventListener("abort", () => {
          aborted = true;
        });
        return new Promise(() => undefined);
      },
      { timeoutMs: 20 },
    );
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    expect(aborted).to.equal(true);
    expect(configuration.etag).to.equal("e1");
    const rejected = { etag: "e2", status: "rejected", reason: "the handler took longer than 20 ms" };
    await eventually(() => expect(reports().at(-1)).to.deep.equal(rejected));
    coordinator.configure("e3", { samplingIntervalMs: 6 });
    await configuration.refresh();
    expect(configuration.etag).to.equal("e3");
  });

  it("takes no time limit of a handler that is none", async () => {
    const configuration = make();
    await configuration.refresh();
    const error = await configuration.onChange(() => undefined, { timeoutMs: 0 }).catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "invalid-request" });
  });

  it("is given to a handler that another one adds: as it is, and then the change that the other is taking", async () => {
    const configuration = make();
    await configuration.refresh();
    const seen: [number, number][] = [];
    await configuration.onChange(async (_settings, { etag }) => {
      if (etag !== "e2") return;
      await configuration.onChange(({ samplingIntervalMs }, { previous }) => {
        seen.push([previous.samplingIntervalMs, samplingIntervalMs]);
      });
    });
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    expect(seen).to.deep.equal([
      [1000, 1000],
      [1000, 5],
    ]);
    expect(configuration.etag).to.equal("e2");
  });

  it("is given again to a handler that was still taking the previous one", async () => {
    const configuration = make();
    await configuration.refresh();
    const seen: number[] = [];
    const change = new AbortController();
    const subscribed = configuration.onChange(async ({ samplingIntervalMs }) => {
      seen.push(samplingIntervalMs);
      if (samplingIntervalMs === 1000) await once(change.signal, "abort");
    });
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    change.abort();
    await subscribed;
    expect(seen).to.deep.equal([1000, 5]);
  });

  it("is reported as rejected when a handler that comes later throws at it, and stays with those that took it", async () => {
    const configuration = make();
    await configuration.refresh();
    const taken: number[] = [];
    await configuration.onChange(({ samplingIntervalMs }) => void taken.push(samplingIntervalMs));
    await eventually(() => expect(reports()).to.deep.equal([{ etag: "e1", status: "applied" }]));
    const refused = new Error("cannot take it");
    const thrown = await configuration
      .onChange(() => {
        throw refused;
      })
      .catch((error: unknown) => error);
    expect(thrown).to.equal(refused);
    const rejected = { etag: "e1", status: "rejected", reason: "cannot take it" };
    await eventually(() => expect(reports().at(-1)).to.deep.equal(rejected));
    await configuration.onChange(() => undefined);
    expect(configuration.etag).to.equal("e1");
    expect(taken).to.deep.equal([1000]);
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    await eventually(() => expect(reports().at(-1)).to.deep.equal({ etag: "e2", status: "applied" }));
    expect(reports()).to.have.lengthOf(3);
  });

  it("is rejected anew when it returns after another one was rejected", async () => {
    const configuration = make();
    await configuration.refresh();
    await configuration.onChange(({ samplingIntervalMs }) => {
      if (samplingIntervalMs === 5) throw new Error("too often");
    });
    await configuration.onChange(() => Promise.reject(new Error("cannot take it"))).catch(() => undefined);
    for (const [etag, samplingIntervalMs] of [
      ["e2", 5],
      ["e1", 1000],
    ] as const) {
      coordinator.configure(etag, { samplingIntervalMs });
      await configuration.refresh();
    }
    const rejected = { etag: "e1", status: "rejected", reason: "cannot take it" };
    await eventually(() => expect(reports().at(-1)).to.deep.equal(rejected));
  });

  for (const [thrown, reason] of [
    [new TypeError(""), "TypeError without a message"],
    ["", "''"],
  ] as const) {
    it(`is rejected with a reason by ${reason}`, async () => {
      const configuration = make();
      await configuration.refresh();
      await configuration.onChange(() => Promise.reject(thrown)).catch(() => undefined);
      await eventually(() => expect(reports().at(-1)).to.include({ status: "rejected", reason }));
    });
  }

  describe("when the component closes", () => {
    it("waits for a handler to end", async () => {
      const configuration = make();
      await configuration.refresh();
      const end = new AbortController();
      let isCalled = false;
      await configuration.onChange(async (_settings, { etag }) => {
        if (etag !== "e2") return;
        isCalled = true;
        await once(end.signal, "abort");
      });
      coordinator.configure("e2", { samplingIntervalMs: 5 });
      void configuration.refresh();
      await eventually(() => expect(isCalled).to.equal(true));
      const closed = configuration.close(60_000);
      end.abort();
      await closed;
      expect(configuration.etag).to.equal("e2");
    });

    it("leaves a handler that does not end to itself: its signal aborts, and what it did not take is not kept", async () => {
      const configuration = make();
      await configuration.refresh();
      const taken: number[] = [];
      await configuration.onChange(({ samplingIntervalMs }) => void taken.push(samplingIntervalMs));
      let hung: AbortSignal | undefined;
      await configuration.onChange(async (_settings, { etag, signal }) => {
        if (etag !== "e2") return;
        hung = signal;
        await new Promise(() => undefined);
      });
      coordinator.configure("e2", { samplingIntervalMs: 5 });
      const changed = configuration.refresh();
      await eventually(() => expect(hung).to.not.equal(undefined));
      await configuration.close(20);
      await changed;
      expect(hung?.aborted).to.equal(true);
      expect(taken).to.deep.equal([1000, 5]);
      expect(JSON.parse(await readFile(join(directory, "one.json"), "utf8"))).to.include({ etag: "e1" });
      expect(reports().map(({ etag }) => etag)).to.not.contain("e2");
    });

    it("does so although a handler awaits it", async () => {
      const configuration = make();
      await configuration.refresh();
      let closed = false;
      await configuration.onChange(async (_settings, { etag }) => {
        if (etag !== "e2") return;
        await configuration.close(20);
        closed = true;
      });
      coordinator.configure("e2", { samplingIntervalMs: 5 });
      await configuration.refresh();
      await eventually(() => expect(closed).to.equal(true));
    });

    it("ends the first call of a handler, and takes no further one", async () => {
      const configuration = make();
      await configuration.refresh();
      const hung = configuration.onChange(() => new Promise(() => undefined)).catch((error: unknown) => error);
      await configuration.close(20);
      expect(await hung).to.include({ code: "unreachable" });
      const late = await configuration.onChange(() => undefined).catch((error: unknown) => error);
      expect(late).to.include({ code: "unreachable" });
    });
  });

  it("takes the next one after a rejected one", async () => {
    const configuration = make(({ samplingIntervalMs }) => {
      if (Number(samplingIntervalMs) < 100) throw new Error("too often");
      return { samplingIntervalMs: Number(samplingIntervalMs) };
    });
    await configuration.refresh();
    for (const [etag, samplingIntervalMs] of [
      ["e2", 5],
      ["e3", 200],
    ] as const) {
      coordinator.configure(etag, { samplingIntervalMs });
      await configuration.refresh();
    }
    expect(configuration.current.samplingIntervalMs).to.equal(200);
  });

  it("reports the return of what it has as applied", async () => {
    const configuration = make(({ samplingIntervalMs }) => {
      if (Number(samplingIntervalMs) < 100) throw new Error("too often");
      return { samplingIntervalMs: Number(samplingIntervalMs) };
    });
    await configuration.refresh();
    for (const [etag, samplingIntervalMs] of [
      ["e2", 5],
      ["e1", 1000],
    ] as const) {
      coordinator.configure(etag, { samplingIntervalMs });
      await configuration.refresh();
    }
    await eventually(() => expect(reports().at(-1)).to.deep.equal({ etag: "e1", status: "applied" }));
  });

  it("is refused to its reader when the very first is not accepted", async () => {
    const configuration = make(() => {
      throw new Error("no such metric");
    });
    const error = await configuration.refresh().catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "refused" });
    await eventually(() => expect(reports().at(-1)).to.include({ status: "rejected", reason: "no such metric" }));
  });

  it("is checked by the schema of its type, read once for each change", async () => {
    let schema: object = { type: "object", properties: { samplingIntervalMs: { type: "integer", minimum: 100 } } };
    coordinator.override = ({ path, headers }) => {
      if (path !== "/v1/config/schemas/collector") return undefined;
      const etag = { etag: `"${JSON.stringify(schema).length}"` };
      return headers["if-none-match"] === etag.etag
        ? { status: 304, headers: etag }
        : { status: 200, body: schema, headers: etag };
    };
    const configuration = make(validateBySchema(new Bridge({ urls: [coordinator.url] }), "collector", silent));
    await configuration.refresh();
    coordinator.configure("e2", { samplingIntervalMs: 5 });
    await configuration.refresh();
    await eventually(() => expect(reports().at(-1)?.reason).to.contain("/samplingIntervalMs must be >= 100"));
    schema = { type: "object" };
    coordinator.configure("e3", { samplingIntervalMs: 6 });
    await configuration.refresh();
    expect(configuration.current.samplingIntervalMs).to.equal(6);
  });

  it("is taken unchecked where the schema cannot be read", async () => {
    coordinator.override = ({ path }) => (path.includes("/schemas/") ? problem(503, "store-unavailable") : undefined);
    const configuration = make(validateBySchema(new Bridge({ urls: [coordinator.url] }), "collector", silent));
    await configuration.refresh();
    expect(configuration.current.samplingIntervalMs).to.equal(1000);
  });

  it("reads once more, and not oftener, for many signals that come while it reads", async () => {
    const configuration = make();
    await configuration.refresh();
    const before = coordinator.seen("GET", "/config").length;
    await Promise.all([1, 2, 3, 4, 5].map(() => configuration.refresh()));
    expect(coordinator.seen("GET", "/config").length - before).to.equal(2);
  });

  it("does not read for a signal of what it has seen", async () => {
    const configuration = make();
    await configuration.refresh();
    configuration.signalled("e1");
    await configuration.refresh();
    expect(coordinator.seen("GET", "/config")).to.have.lengthOf(2);
  });

  describe("that a signal told of before the coordinator that is asked has heard of it", () => {
    /** What waits is answered when the coordinator is given something, all else at once. */
    let told: () => void;
    const waiting = () => coordinator.seen("GET", "/config").filter(({ query }) => query.has("waitMs")).length;
    const tell = (etag: string) => {
      coordinator.etag = etag;
      told();
    };

    beforeEach(() => {
      coordinator.override = async ({ method, path, query }) => {
        if (method !== "GET" || !path.endsWith("/config") || !query.has("waitMs")) return undefined;
        await new Promise<void>((resolve) => {
          told = resolve;
        });
        return undefined;
      };
    });

    it("is waited for, whatever comes before it", async () => {
      const configuration = make();
      await configuration.refresh();
      configuration.signalled("e3");
      for (const [index, etag] of ["e2", "e3"].entries()) {
        await eventually(() => expect(waiting()).to.equal(index + 1));
        tell(etag);
        await eventually(() => expect(configuration.etag).to.equal(etag));
      }
      coordinator.etag = "e4";
      await configuration.refresh();
      expect([configuration.etag, waiting()]).to.deep.equal(["e4", 2]);
    });

    it("is not waited for when what a reading under way brings is just that", async () => {
      const configuration = make();
      await configuration.refresh();
      configuration.signalled("e2");
      await eventually(() => expect(waiting()).to.equal(1));
      configuration.signalled("e3");
      tell("e3");
      await configuration.refresh();
      expect([configuration.etag, waiting()]).to.deep.equal(["e3", 1]);
    });

    it("is waited for no more when it did not come", async () => {
      const configuration = make();
      await configuration.refresh();
      configuration.signalled("e2");
      await eventually(() => expect(waiting()).to.equal(1));
      tell("e1");
      await configuration.refresh();
      expect(waiting()).to.equal(1);
    });
  });

  it("follows a stream, across a restart of the coordinator", async () => {
    const configuration = make();
    configuration.follow("stream");
    await eventually(() => expect(configuration.isKnown && configuration.etag).to.equal("e1"));
    await coordinator.stop();
    coordinator.etag = "e2";
    coordinator.settings = { samplingIntervalMs: 250 };
    await coordinator.start();
    await eventually(() => expect(configuration.current.samplingIntervalMs).to.equal(250));
  });

  it("is streamed from what was read before, so that another coordinator gives nothing older", async () => {
    const configuration = make();
    await configuration.refresh();
    configuration.follow("stream");
    await eventually(() => expect(coordinator.streamsOf("/config")).to.equal(1));
    expect(coordinator.seen("GET", "/config").at(-1)?.headers["last-event-id"]).to.equal("e1");
  });

  it("repeats its report until a coordinator has it", async () => {
    let refused = 0;
    coordinator.override = ({ path }) => {
      if (!path.endsWith("/config/status") || refused === 2) return undefined;
      refused += 1;
      return problem(503, "store-unavailable");
    };
    await make().refresh();
    await eventually(() => expect(reports()).to.have.lengthOf(3));
  });

  describe("on disk", () => {
    it("is found again with its etag and age when nothing answers", async () => {
      await make().refresh();
      await open.splice(0)[0]?.close(100);
      await coordinator.stop();
      const restored = make();
      expect((await restored.restore()).found).to.equal(true);
      expect(restored.current).to.deep.equal({ samplingIntervalMs: 1000 });
      expect(restored.etag).to.equal("e1");
      expect(restored.ageMs).to.be.within(0, 60_000);
    });

    it("is never what was rejected", async () => {
      const configuration = make();
      await configuration.refresh();
      await configuration.onChange(({ samplingIntervalMs }) => {
        if (samplingIntervalMs === 5) throw new Error("no");
      });
      coordinator.configure("e2", { samplingIntervalMs: 5 });
      await configuration.refresh();
      await configuration.close(100);
      expect(JSON.parse(await readFile(join(directory, "one.json"), "utf8"))).to.include({ etag: "e1" });
    });

    it("is readable by its user alone, and written whole or not at all", async () => {
      const configuration = make();
      await configuration.refresh();
      await configuration.close(100);
      expect((await stat(join(directory, "one.json"))).mode & 0o777).to.equal(0o600);
      expect(await readdir(directory)).to.deep.equal(["one.json"]);
    });

    const whole = { id: "one", etag: "e1", settings: {}, confirmedAt: new Date().toISOString() };
    const unusable: [string, string][] = [
      ["a broken file", "{"],
      ["another component's file", JSON.stringify({ ...whole, id: "two" })],
      ["a file whose settings are null", JSON.stringify({ ...whole, settings: null })],
      ["a file whose settings are a list", JSON.stringify({ ...whole, settings: [1] })],
      ["a file without the time when they were confirmed", JSON.stringify({ ...whole, confirmedAt: undefined })],
      ["a file with a number for that time", JSON.stringify({ ...whole, confirmedAt: 5 })],
      ["a file with no time there", JSON.stringify({ ...whole, confirmedAt: "2026-99-99T00:00:00Z" })],
    ];
    for (const [what, content] of unusable) {
      it(`is not taken from ${what}`, async () => {
        await writeFile(join(directory, "one.json"), content);
        expect((await make().restore()).found).to.equal(false);
      });
    }

    it("is taken with no age from a file of the future: the clock was set back", async () => {
      await writeFile(join(directory, "one.json"), JSON.stringify({ ...whole, confirmedAt: "2999-01-01T00:00:00Z" }));
      const configuration = make();
      expect((await configuration.restore()).found).to.equal(true);
      expect(configuration.ageMs).to.be.within(0, 10_000);
    });

    it("does not keep a component from running where it cannot be written", async () => {
      await writeFile(join(directory, "file"), "");
      const cache = new DiskCache(join(directory, "file", "one.json"), silent);
      await cache.write(whole);
      expect(await cache.read("one")).to.equal(undefined);
    });
  });
});
