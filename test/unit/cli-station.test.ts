import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { Conflict } from "../../clients/cli/commands/conflicts.ts";
import { resolutionOf } from "../../clients/cli/commands/conflicts.ts";
import { atStart, type Look, newsSince } from "../../clients/cli/station/news.ts";
import {
  madeUpName,
  readSeen,
  readStation,
  rememberSeen,
  rememberStation,
  withPeer,
} from "../../clients/cli/station/record.ts";
import { idPattern } from "../../config-db/names.ts";

const status = { total: 2, applied: 2, rejected: 0, pending: 0 };
const layer = (version: number, site = "home") => ({
  layer: "type:collector",
  version,
  changedBy: "anna",
  changedAt: `2026-11-22T02:00:0${version}Z`,
  site,
});
const peer = (state: string, ms = 0, lastError?: string) => ({
  name: "home",
  self: false,
  peer: true,
  state,
  lag: { changes: 0, ms },
  ...(lastError === undefined ? {} : { lastError }),
});
const conflict: Conflict = {
  id: "c1",
  layer: "type:collector",
  pointer: "/samplingIntervalMs",
  candidates: [
    { rev: "3-aaa", site: "home", value: 1, live: true },
    { rev: "3-bbb", site: "laptop", value: 2, live: false },
  ],
  since: "2026-11-22T02:00:00Z",
};

/** The events that each of a sequence of looks gives, to one who has seen these layers. */
function told(seen: Look["layers"] | undefined, ...looks: Partial<Look>[]): unknown[] {
  const whole = (look: Partial<Look>): Look => ({ sites: [], layers: [], conflicts: [], status, ...look });
  let state = atStart(seen);
  return looks.map((look) => {
    const since = newsSince(state, whole(look), "laptop");
    state = since.told;
    return since.news.map(({ event, data }) =>
      event === "peer" ? `${data.standing}${data.error ? `: ${data.error}` : ""}` : event,
    );
  });
}

describe("the news of a station", () => {
  it("tells of a peer that is away, comes back and is caught up with, and not of every write after", () => {
    const looks = [
      peer("unreachable", 5, "refused"),
      peer("unreachable", 9, "refused"),
      peer("up", 50),
      peer("up"),
      peer("up", 3),
      peer("up"),
    ];
    expect(told([], ...looks.map((site) => ({ sites: [site] })))).to.deep.equal([
      ["away: refused"],
      [],
      ["catching up"],
      ["in sync"],
      [],
      [],
    ]);
  });

  it("tells when the reason changes why a peer is away", () => {
    const looks = [peer("unreachable", 0, "refused"), peer("error", 0, "wrong credentials")];
    expect(told([], ...looks.map((site) => ({ sites: [site] })))).to.deep.equal([
      ["away: refused"],
      ["away: wrong credentials"],
    ]);
  });

  it("says nothing of itself and of sites that it only knows through others", () => {
    const sites = [
      { name: "laptop", self: true, state: "up" },
      { name: "far", self: false, peer: false, state: "up" },
    ];
    expect(told([], { sites })).to.deep.equal([[]]);
  });

  it("tells of layers that others wrote since it last ran", () => {
    expect(
      told([layer(1)], { layers: [layer(1)] }, { layers: [layer(2)] }, { layers: [layer(3, "laptop")] }),
    ).to.deep.equal([[], ["layer"], []]);
  });

  it("says nothing of what the very first replication brings, and something of what comes after", () => {
    const looks = [
      { sites: [peer("up", 50)], layers: [layer(1)] },
      { sites: [peer("up")], layers: [layer(2)] },
      { sites: [peer("up")], layers: [layer(3)] },
    ];
    expect(told(undefined, ...looks)).to.deep.equal([["catching up"], ["in sync"], ["layer"]]);
  });

  it("tells of conflicts that are open at the start, come up, and are resolved", () => {
    expect(told([], { conflicts: [conflict] }, { conflicts: [conflict] }, {})).to.deep.equal([
      ["conflict"],
      [],
      ["resolved"],
    ]);
  });

  it("tells who has applied, when that changes", () => {
    expect(told([], {}, { status: { ...status, applied: 1, pending: 1 } })).to.deep.equal([[], ["status"]]);
  });
});

describe("what a station remembers", () => {
  let dataDir: string;
  beforeEach(async () => {
    dataDir = join(await mkdtemp(join(tmpdir(), "muster-station-")), "station");
  });
  afterEach(() => rm(join(dataDir, ".."), { recursive: true }));
  const home = { name: "home", siteUrl: "http://home:8080", couchdbUrl: "http://u:p@home:5984" };

  it("is its name, its ports and its peers, for its owner only", async () => {
    const made = withPeer(await readStation(dataDir, { name: "laptop", httpPort: 9000 }), home);
    await rememberStation(dataDir, made);
    expect(await readStation(dataDir, {})).to.deep.equal({
      site: "laptop",
      httpPort: 9000,
      couchdbPort: 5990,
      peers: [home],
    });
    expect((await stat(join(dataDir, "station.json"))).mode & 0o777).to.equal(0o600);
    expect((await stat(dataDir)).mode & 0o777).to.equal(0o700);
  });

  it("keeps a name that was made up", async () => {
    const made = await readStation(dataDir, {});
    await rememberStation(dataDir, made);
    expect((await readStation(dataDir, {})).site).to.equal(made.site);
  });

  it("is what it told of, and nothing where that file is broken", async () => {
    expect(await readSeen(dataDir)).to.equal(undefined);
    await rememberSeen(dataDir, [layer(1)]);
    expect(await readSeen(dataDir)).to.deep.equal([layer(1)]);
    await writeFile(join(dataDir, "seen.json"), "{");
    expect(await readSeen(dataDir)).to.equal(undefined);
  });

  it("is refused under another name", async () => {
    await rememberStation(dataDir, await readStation(dataDir, { name: "laptop" }));
    const error = await readStation(dataDir, { name: "other" }).catch((thrown: Error) => thrown);
    expect(error).to.have.property("message").that.contains("is laptop, and what it wrote says so");
  });

  it("is named when it is broken", async () => {
    await rememberStation(dataDir, await readStation(dataDir, {}));
    await writeFile(join(dataDir, "station.json"), "{");
    const error = await readStation(dataDir, {}).catch((thrown: Error) => thrown);
    expect(error)
      .to.have.property("message")
      .that.matches(/station\.json is broken/);
    expect(await readFile(join(dataDir, "station.json"), "utf8")).to.equal("{");
  });

  it("has the newest address of a peer", () => {
    const station = { site: "laptop", httpPort: 1, couchdbPort: 2, peers: [home] };
    const moved = { ...home, couchdbUrl: "http://elsewhere:5984" };
    expect(withPeer(station, moved).peers).to.deep.equal([moved]);
    expect(withPeer(station, undefined).peers).to.deep.equal([home]);
  });

  it("is a name that a site can have, whatever the machine is called", () => {
    for (const host of ["MacBook-Pro.local", "--x--", "", "Ünïcode", "a".repeat(200)]) {
      const name = madeUpName(host, "beef");
      expect(name)
        .to.match(idPattern)
        .and.to.match(/^station-.+-beef$/);
    }
  });
});

describe("a conflict's resolution", () => {
  it("is what stands, one side by revision or site, or a value", () => {
    expect(resolutionOf(conflict, { keep: true })).to.deep.equal({ choose: "3-aaa" });
    expect(resolutionOf(conflict, { choose: "3-b" })).to.deep.equal({ choose: "3-bbb" });
    expect(resolutionOf(conflict, { choose: "laptop" })).to.deep.equal({ choose: "3-bbb" });
    expect(resolutionOf(conflict, { value: "750" })).to.deep.equal({ value: 750 });
  });

  it("is by a site's name never the side that is none of its kind", () => {
    const candidates: Conflict["candidates"] = [
      { rev: "2-aaa", site: "home", value: 1, live: true },
      { rev: "3-bbb", site: "home", live: false, unusable: true },
    ];
    expect(resolutionOf({ ...conflict, candidates }, { choose: "home" })).to.deep.equal({ choose: "2-aaa" });
  });

  it("is refused when it names no side, several, or several ways", () => {
    expect(() => resolutionOf(conflict, { choose: "nowhere" })).to.throw(
      '"nowhere" names no side; there are 3-aaa (home), 3-bbb (laptop)',
    );
    expect(() => resolutionOf(conflict, { choose: "3-" })).to.throw("names several sides");
    expect(() => resolutionOf(conflict, {})).to.throw("Give one of --keep, --choose and --value");
    expect(() => resolutionOf(conflict, { keep: true, value: "1" })).to.throw("Give one of");
  });
});
