import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import type { CandidateDocument } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("staged changes", () => {
  let embedded: Embedded;
  let here: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({ storeUrl: embedded.url });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const config = async (id: string) => (await here.call("GET", `/v1/components/${id}/config`)).body;
  const candidate = (layer: string) => `/v1/config/layers/${layer}/candidate`;
  const stage = (layer: string, body: unknown) => here.call("PUT", candidate(layer), body);
  const report = async (id: string, status: "applied" | "rejected", reason?: string) => {
    const { headers } = await here.call("GET", `/v1/components/${id}/config`);
    const etag = (headers.get("etag") ?? "").slice(1, -1);
    const answer = await here.call("PUT", `/v1/components/${id}/config/status`, {
      etag,
      status,
      ...(reason ? { reason } : {}),
    });
    expect(answer.status).to.equal(204);
  };

  /** A type of so many components, every other of them tagged `canary`, with `{n: 1}` as its layer. */
  async function fleet(count: number) {
    const type = fresh("type");
    const ids = Array.from({ length: count }, () => fresh("c"));
    for (const [index, id] of ids.entries()) await here.register(id, { type, tags: index % 2 === 0 ? ["canary"] : [] });
    await here.call("PUT", `/v1/config/layers/type:${type}`, { settings: { n: 1, keep: true } });
    return { layer: `type:${type}`, ids, chosen: ids.filter((_, index) => index % 2 === 0) };
  }

  it("reach the selected components alone, and explain and the candidate say so", async () => {
    const { layer, ids, chosen } = await fleet(4);
    const staged = await stage(layer, { settings: { n: 2 }, selector: { tags: ["canary"] } });
    expect(staged.status).to.equal(201);
    for (const id of ids) expect(await config(id)).to.deep.equal(chosen.includes(id) ? { n: 2 } : { n: 1, keep: true });
    const { explain } = (await here.call("GET", `/v1/components/${chosen[0]}/config?explain=true`)).body;
    expect(explain["/n"]).to.deep.equal({ layer, version: 2, candidate: true });
    const { body } = await here.call("GET", candidate(layer));
    expect(body).to.deep.include({ state: "staged", stale: false });
    expect(body.components.map(({ id, status }: { id: string; status: string }) => [id, status])).to.have.deep.members(
      chosen.map((id) => [id, "pending"]),
    );
  });

  it("take in a share of the components that only grows with the percentage", async () => {
    const { layer, ids } = await fleet(40);
    let before = new Set<string>();
    for (const percent of [10, 50, 100]) {
      await stage(layer, { settings: { n: percent }, selector: { percent } });
      const chosen = new Set<string>();
      for (const id of ids) if ((await config(id)).n === percent) chosen.add(id);
      for (const id of before) expect(chosen.has(id)).to.equal(true);
      expect(chosen.size).to.be.within(Math.floor(0.4 * percent * 0.3), Math.ceil(0.4 * percent * 1.7));
      before = chosen;
    }
    expect(before.size).to.equal(40);
  });

  it("become the layer by a promotion", async () => {
    const { layer, ids } = await fleet(2);
    await stage(layer, { settings: { n: 3 }, selector: { tags: ["canary"] }, note: "three" });
    const promoted = await here.call("POST", `${candidate(layer)}/promote`);
    expect(promoted.body).to.deep.include({ version: 2, settings: { n: 3 }, note: "three" });
    for (const id of ids) expect(await config(id)).to.deep.equal({ n: 3 });
    expect((await here.call("GET", candidate(layer))).body.state).to.equal("promoted");
    expect((await here.call("POST", `${candidate(layer)}/promote`)).status).to.equal(404);
  });

  it("are promoted only as who asks has seen them", async () => {
    const { layer } = await fleet(1);
    const seen = await stage(layer, { settings: { n: 3 }, selector: { percent: 100 } });
    const now = await stage(layer, { settings: { n: 4 }, selector: { percent: 100 } });
    const promote = (of: typeof seen) =>
      here.call("POST", `${candidate(layer)}/promote`, undefined, { "if-match": of.headers.get("etag") ?? "" });
    const refused = await promote(seen);
    expect([refused.status, refused.body.code]).to.deep.equal([412, "precondition-failed"]);
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).body.settings.n).to.equal(1);
    expect((await promote(now)).body.settings).to.deep.equal({ n: 4 });
  });

  it("are promoted once for one Idempotency-Key, which no other request may have", async () => {
    const { layer } = await fleet(1);
    await stage(layer, { settings: { n: 3 }, selector: { percent: 100 } });
    const key = { "idempotency-key": fresh("key") };
    const promote = () => here.call("POST", `${candidate(layer)}/promote`, undefined, key);
    const [one, two] = await Promise.all([promote(), promote()]);
    expect([one.status, one.body.version]).to.deep.equal([200, 2]);
    for (const again of [two, await promote()]) {
      expect([again.status, again.headers.get("etag")]).to.deep.equal([200, one.headers.get("etag")]);
      expect(again.body).to.deep.equal(one.body);
    }
    const other = await here.call("POST", `/v1/config/layers/${layer}/rollback`, { version: 1 }, key);
    expect([other.status, other.body.code]).to.deep.equal([422, "refused"]);
  });

  it("have an ETag of all that a GET tells, and are written on their revision alone", async () => {
    const { layer, ids } = await fleet(1);
    const staged = await stage(layer, { settings: { n: 3 }, selector: { percent: 100 } });
    const etag = staged.headers.get("etag") ?? "";
    const known = { "if-none-match": etag };
    const unchanged = await here.call("GET", candidate(layer), undefined, known);
    expect([unchanged.status, unchanged.headers.get("etag")]).to.deep.equal([304, etag]);
    await report(ids[0] ?? "", "applied");
    const reported = await here.call("GET", candidate(layer), undefined, known);
    expect([reported.status, reported.body.components[0].status]).to.deep.equal([200, "applied"]);
    const restage = (ifMatch: string) =>
      here.call("PUT", candidate(layer), { settings: { n: 4 }, selector: { percent: 100 } }, { "if-match": ifMatch });
    const again = await restage(etag);
    expect(again.status).to.equal(200);
    expect((await restage(etag)).status).to.equal(412);
    const revision = `${(again.headers.get("etag") ?? "").split(".")[0]}"`;
    expect((await here.call("DELETE", candidate(layer), undefined, { "if-match": etag })).status).to.equal(412);
    expect((await here.call("DELETE", candidate(layer), undefined, { "if-match": revision })).status).to.equal(204);
  });

  it("are gone for all by a DELETE", async () => {
    const { layer, ids } = await fleet(2);
    await stage(layer, { settings: { n: 3 }, selector: { percent: 100 } });
    expect((await here.call("DELETE", candidate(layer))).status).to.equal(204);
    for (const id of ids) expect((await config(id)).n).to.equal(1);
    expect((await here.call("GET", candidate(layer))).status).to.equal(404);
    expect((await here.call("DELETE", candidate(layer))).status).to.equal(404);
  });

  it("promote themselves when enough components applied them", async () => {
    const { layer, ids, chosen } = await fleet(6);
    await stage(layer, { settings: { n: 4 }, selector: { tags: ["canary"] }, promoteWhen: { applied: 2 } });
    await report(chosen[0] ?? "", "applied");
    expect((await here.call("GET", candidate(layer))).body.state).to.equal("staged");
    await report(chosen[1] ?? "", "applied");
    await eventually(async () => expect((await here.call("GET", candidate(layer))).body.state).to.equal("promoted"));
    for (const id of ids) expect(await config(id)).to.deep.equal({ n: 4 });
    const { body } = await here.call("GET", `/v1/config/layers/${layer}/history`);
    expect(body.versions.length).to.equal(2);
  });

  it("withdraw themselves when a component rejects them, and say which and why", async () => {
    const { layer, ids, chosen } = await fleet(4);
    await stage(layer, {
      settings: { n: 5 },
      selector: { tags: ["canary"] },
      promoteWhen: { applied: 2 },
      withdrawOnReject: true,
    });
    await report(chosen[0] ?? "", "rejected", "too high");
    await eventually(async () => {
      const { body } = await here.call("GET", candidate(layer));
      expect(body).to.deep.include({ state: "withdrawn", reason: `${chosen[0]} rejected it: too high` });
    });
    for (const id of ids) expect((await config(id)).n).to.equal(1);
  });

  it("are promoted, or withdrawn or replaced, never both", async () => {
    const { layer } = await fleet(2);
    for (let n = 10; n < 40; n += 2) {
      await stage(layer, { settings: { n }, selector: { percent: 50 } });
      const before = (await here.call("GET", `/v1/config/layers/${layer}`)).body.settings;
      const delayMs = Math.random() * 6;
      const [promoted, other] = await Promise.all([
        here.call("POST", `${candidate(layer)}/promote`),
        new Promise((resolve) => setTimeout(resolve, delayMs)).then(() =>
          n % 4 === 0
            ? here.call("DELETE", candidate(layer))
            : stage(layer, { settings: { n: n + 1 }, selector: { percent: 50 } }),
        ),
      ]);
      const { settings } = (await here.call("GET", `/v1/config/layers/${layer}`)).body;
      const told = `promote ${promoted.status}, the other ${other.status} after ${delayMs} ms`;
      if (promoted.status === 200) expect(settings, told).to.deep.equal(promoted.body.settings);
      else expect(settings, told).to.deep.equal(before);
      expect(promoted.status, told).to.be.oneOf([200, 404]);
      expect(other.status, told).to.be.oneOf([200, 201, 204, 409]);
    }
  });

  it("are promoted to the end when who began it died", async () => {
    const { layer } = await fleet(2);
    await stage(layer, { settings: { n: 7 }, selector: { percent: 50 } });
    const database = new Store(embedded.url).database<CandidateDocument>(databases.config);
    const staged = (await database.get(`candidate:${layer}`)) as CandidateDocument;
    await database.put({ ...staged, promotingSince: new Date().toISOString() });
    await eventually(async () => expect((await here.call("GET", candidate(layer))).body.state).to.equal("promoted"), {
      timeoutMs: 20_000,
    });
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).body.settings).to.deep.equal({ n: 7 });
  }).timeout(30_000);

  describe("whose promotion was begun by who died", () => {
    const layerPath = (layer: string) => `/v1/config/layers/${layer}`;
    const config = () => new Store(embedded.url).database<CandidateDocument>(databases.config);

    /** Says in a staged candidate that it is being promoted, as who died had. */
    async function claim(layer: string, more: Partial<CandidateDocument> = {}) {
      const staged = (await config().get(`candidate:${layer}`)) as CandidateDocument;
      await config().put({ ...staged, ...more, promotingSince: new Date().toISOString() });
    }
    const ended = (layer: string, state: string) =>
      eventually(
        async () => {
          const { body } = await here.call("GET", candidate(layer));
          expect(body.state).to.equal(state);
          expect(body).to.not.have.property("promotingSince");
        },
        { timeoutMs: 20_000 },
      );

    it("are promoted once the layer had been written, whatever was written over it since", async () => {
      const { layer, ids } = await fleet(2);
      await stage(layer, { settings: { n: 7 }, selector: { percent: 0 } });
      await here.call("PUT", layerPath(layer), { settings: { n: 7 } });
      for (let more = 1; more <= 3; more++) await here.call("PATCH", layerPath(layer), { settings: { more } });
      await claim(layer);
      await ended(layer, "promoted");
      for (const id of ids) {
        const { body } = await here.call("GET", `/v1/components/${id}/config`);
        expect(body).to.deep.equal({ n: 7, more: 3 });
      }
      expect((await here.call("GET", layerPath(layer))).body.version).to.equal(5);
    }).timeout(30_000);

    it("are staged as before where the layer had not been written, and can be taken back", async () => {
      const { layer } = await fleet(2);
      await stage(layer, { settings: { n: 7 }, selector: { percent: 50 }, note: "seven" });
      await here.call("PATCH", layerPath(layer), { settings: { urgent: true } });
      await claim(layer);
      expect((await here.call("DELETE", candidate(layer))).status).to.equal(409);
      await ended(layer, "staged");
      expect((await here.call("GET", candidate(layer))).body).to.deep.include({ stale: true, note: "seven" });
      expect((await here.call("POST", `${candidate(layer)}/promote`)).status).to.equal(409);
      expect((await here.call("GET", layerPath(layer))).body.settings).to.deep.include({ n: 1, urgent: true });
      expect((await here.call("DELETE", candidate(layer))).status).to.equal(204);
    }).timeout(30_000);

    describe("at a site that leads no more", () => {
      let aheadMs = 0;
      let elsewhere: ConfigSite;

      before(async () => {
        const clock = () => performance.now() + aheadMs;
        elsewhere = await startConfigSite({ storeUrl: embedded.url, site: "elsewhere", clock });
      });
      after(() => elsewhere?.close());

      async function left() {
        const { layer } = await fleet(1);
        await stage(layer, { settings: { n: 7 }, selector: { percent: 50 } });
        await claim(layer, { site: "gone" });
        return layer;
      }
      const write = { settings: { n: 8 }, selector: { percent: 50 } };

      for (const [what, method, body, done] of [
        ["taken back", "DELETE", undefined, 204],
        ["replaced", "PUT", write, 200],
      ] as const) {
        it(`can be ${what} elsewhere a minute after that was first tried, and no sooner`, async () => {
          const layer = await left();
          const tried = async () => (await elsewhere.call(method, candidate(layer), body)).status;
          expect(await tried()).to.equal(409);
          aheadMs += 50_000;
          expect(await tried()).to.equal(409);
          aheadMs += 10_000;
          expect(await tried()).to.equal(done);
        });
      }

      it("can be promoted elsewhere five seconds after that was first tried, and no sooner", async () => {
        const layer = await left();
        const tried = async () => (await elsewhere.call("POST", `${candidate(layer)}/promote`)).status;
        expect(await tried()).to.equal(409);
        aheadMs += 5_000;
        expect(await tried()).to.equal(200);
        expect((await here.call("GET", layerPath(layer))).body.settings).to.deep.equal({ n: 7 });
      });
    });
  });

  it("are not promoted over a layer that was changed since", async () => {
    const { layer, chosen } = await fleet(2);
    await stage(layer, { settings: { n: 6 }, selector: { tags: ["canary"] }, promoteWhen: { applied: 1 } });
    await here.call("PATCH", `/v1/config/layers/${layer}`, { settings: { other: 1 } });
    await report(chosen[0] ?? "", "applied");
    const promoted = await here.call("POST", `${candidate(layer)}/promote`);
    expect([promoted.status, promoted.body.code]).to.deep.equal([409, "conflict"]);
    const { body } = await here.call("GET", candidate(layer));
    expect(body).to.deep.include({ state: "staged", stale: true });
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).body.settings.other).to.equal(1);
  });

  it("hide no invalid write of what they stand in front of, and end even where that is invalid", async () => {
    const { layer, chosen } = await fleet(2);
    const type = layer.slice("type:".length);
    const schema = (limits: object) => ({ type: "object", properties: { n: { type: "integer", ...limits } } });
    await here.call("PUT", `/v1/config/schemas/${type}`, schema({}));
    await stage(layer, { settings: { n: 50 }, selector: { percent: 100 }, withdrawOnReject: true });
    const bad = { settings: { n: "bad" } };
    expect((await here.call("PUT", `/v1/config/layers/${layer}`, bad)).status).to.equal(422);
    const { body: tried } = await here.call("POST", "/v1/config/validate", { layer, ...bad });
    expect(tried.valid).to.equal(false);
    expect(tried.components.map(({ errors }: { errors: { pointer: string }[] }) => errors[0]?.pointer)).to.deep.equal([
      "/n",
      "/n",
    ]);
    expect((await here.call("PUT", `/v1/config/schemas/${type}`, schema({ minimum: 10 }))).status).to.equal(422);
    await report(chosen[0] as string, "rejected", "too large");
    await eventually(async () => {
      expect((await here.call("GET", candidate(layer))).body.state).to.equal("withdrawn");
    });
    expect(await config(chosen[0] as string)).to.deep.equal({ n: 1, keep: true });
  });

  describe("of several layers", () => {
    /** A component whose settings may have `b` only with `a`, and `a` with `c` only with `b`. */
    async function dependent() {
      const [type, subsystem, id] = [fresh("type"), fresh("subsystem"), fresh("c")];
      await here.register(id, { type, subsystem });
      const anyOf = [{ required: ["b"] }, { not: { required: ["a", "c"] } }];
      await here.call("PUT", `/v1/config/schemas/${type}`, { dependentRequired: { b: ["a"] }, anyOf });
      return { id, weak: `subsystem:${subsystem}`, strong: `type:${type}`, own: `component:${id}` };
    }
    const all = { percent: 100 };

    it("are refused when they are valid only with each other", async () => {
      const { id, weak, strong } = await dependent();
      expect((await stage(weak, { settings: { a: 1 }, selector: all })).status).to.equal(201);
      const refused = await stage(strong, { settings: { b: 1 }, selector: all });
      expect([refused.status, refused.body.errors[0].component]).to.deep.equal([422, id]);
      expect((await here.call("DELETE", candidate(weak))).status).to.equal(204);
      expect(await config(id)).to.deep.equal({});
    });

    it("are refused when they are invalid with one of two others and valid with both", async () => {
      const { weak, strong, own } = await dependent();
      expect((await stage(weak, { settings: { a: 1 }, selector: all })).status).to.equal(201);
      expect((await stage(strong, { settings: { a: 1, b: 1 }, selector: all })).status).to.equal(201);
      expect((await stage(own, { settings: { c: 1 }, selector: all })).status).to.equal(422);
    });

    it("are not promoted to what is valid only with another", async () => {
      const { id, weak, strong } = await dependent();
      expect((await stage(weak, { settings: { a: 1 }, selector: all })).status).to.equal(201);
      expect((await stage(strong, { settings: { b: 1 }, selector: { tags: ["none"] } })).status).to.equal(201);
      expect((await here.call("POST", `${candidate(strong)}/promote`)).status).to.equal(422);
      expect((await here.call("POST", `${candidate(weak)}/promote`)).status).to.equal(200);
      expect((await here.call("POST", `${candidate(strong)}/promote`)).status).to.equal(200);
      expect(await config(id)).to.deep.equal({ a: 1, b: 1 });
    });
  });

  it("are refused when they would break a selected component, and by a selector that says nothing", async () => {
    const { layer, chosen } = await fleet(2);
    const schema = { properties: { n: { type: "integer", maximum: 10 } } };
    await here.call("PUT", `/v1/config/schemas/${layer.slice("type:".length)}`, schema);
    const answer = await stage(layer, { settings: { n: 11 }, selector: { tags: ["canary"] } });
    expect([answer.status, answer.body.errors[0].component]).to.deep.equal([422, chosen[0]]);
    for (const selector of [{}, { percent: 101 }, { tag: ["x"] }]) {
      expect((await stage(layer, { settings: { n: 1 }, selector })).status).to.equal(400);
    }
    expect((await here.call("GET", candidate(layer))).status).to.equal(404);
  });
});
