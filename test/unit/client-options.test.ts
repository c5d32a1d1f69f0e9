import { expect } from "chai";
import { backoffMs } from "../../clients/typescript/src/backoff.ts";
import { resolveOptions } from "../../clients/typescript/src/options.ts";

describe("the options of connect", () => {
  const minimal = { url: "http://localhost:8080", id: "one", type: "worker" };

  it("are filled from the environment", () => {
    const environment = { MUSTER_URL: "http://a:1, http://b:2", MUSTER_COMPONENT_ID: "mine", MUSTER_TOKEN: "secret" };
    const { urls, id, token } = resolveOptions({ type: "worker" }, environment);
    expect({ urls, id, token }).to.deep.equal({ urls: ["http://a:1", "http://b:2"], id: "mine", token: "secret" });
  });

  it("go before the environment", () => {
    expect(resolveOptions(minimal, { MUSTER_COMPONENT_ID: "other" }).id).to.equal("one");
  });

  it("keep the caches of two systems apart, whatever the order of their URLs", () => {
    const file = (...url: string[]) => resolveOptions({ ...minimal, url, cacheDirectory: "/c" }, {}).cacheFile;
    expect(file("http://a", "http://b")).to.equal(file("http://b", "http://a"));
    expect(file("http://a")).not.to.equal(file("http://b"));
    expect(resolveOptions({ ...minimal, cacheDirectory: false }, {}).cacheFile).to.equal(undefined);
  });

  const wrong: [string, object, RegExp][] = [
    ["no URL", { ...minimal, url: undefined }, /url must be .*MUSTER_URL/],
    ["a URL that is none", { ...minimal, url: "localhost:8080" }, /url must be .*"localhost:8080"/],
    ["an id with capitals", { ...minimal, id: "One" }, /id .*must be .*"One"/],
    ["no type", { url: "http://a", id: "one" }, /type must be/],
    ["a TTL that is too short", { ...minimal, ttlMs: 999 }, /ttlMs must be an integer in 1000\.\.3600000, got 999/],
    ["an unknown transport", { ...minimal, transport: "carrier-pigeon" }, /transport must be auto, amqp or http/],
    ["a prefetch of nothing", { ...minimal, prefetch: 0 }, /prefetch must be an integer in 1\.\.1000/],
  ];
  for (const [what, options, message] of wrong) {
    it(`refuse ${what}, saying what would be right`, () => {
      expect(() => resolveOptions(options as typeof minimal, {})).to.throw(message);
    });
  }
});

describe("backoff", () => {
  it("doubles up to its limit, and leaves half of it to chance", () => {
    const limits = { firstMs: 100, maxMs: 1_000 };
    expect([0, 1, 2, 3, 4, 50].map((attempt) => backoffMs(attempt, limits, 1))).to.deep.equal([
      100, 200, 400, 800, 1_000, 1_000,
    ]);
    expect(backoffMs(1, limits, 0)).to.equal(100);
  });
});
