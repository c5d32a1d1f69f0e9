import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import LevelDOWN from "leveldown";
import { CachedLevelDB } from "../../config-db/embedded/cached-leveldb.ts";
import { eventually } from "../support/eventually.ts";

/** The part of an abstract-leveldown that is used here; its public methods call those with an underscore. */
interface Level {
  open(options: object, done: (error: unknown) => void): void;
  close(done: (error: unknown) => void): void;
  get(key: string, options: object, done: (error: unknown, value: unknown) => void): void;
  batch(operations: object[], options: object, done: (error: unknown) => void): void;
}

describe("LevelDB that answers from memory what was written lately", () => {
  let directory: string;
  let level: Level;
  const { _get: read, _getMany: readMany } = LevelDOWN.prototype;
  let reads = 0;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "muster-level-"));
    level = new CachedLevelDB(join(directory, "db")) as unknown as Level;
    await promisify(level.open.bind(level))({});
    reads = 0;
    LevelDOWN.prototype._get = function (...given) {
      reads += 1;
      read.apply(this, given);
    };
    LevelDOWN.prototype._getMany = function (...given) {
      reads += 1;
      readMany.apply(this, given);
    };
  });
  afterEach(async () => {
    LevelDOWN.prototype._get = read;
    LevelDOWN.prototype._getMany = readMany;
    await promisify(level.close.bind(level))();
    await rm(directory, { recursive: true });
  });

  const batch = (...operations: object[]) => promisify(level.batch.bind(level))(operations, {});
  const put = (key: string, value: unknown) => batch({ type: "put", key, value });
  const get = async (key: string, asBuffer = false): Promise<unknown> =>
    promisify(level.get.bind(level))(key, { asBuffer }).catch((error: Error) => error.message);

  it("gives what was written last, without a read", async () => {
    await put("a", "1");
    await put("a", "2");
    expect(await get("a")).to.equal("2");
    expect(reads).to.equal(0);
  });

  it("reads what it did not write itself, bytes, and what is wanted as bytes", async () => {
    await put("bytes", Buffer.from([0, 255]));
    await put("text", "x");
    expect(await get("none")).to.match(/notfound/i);
    expect(await get("bytes", true)).to.deep.equal(Buffer.from([0, 255]));
    expect(await get("text", true)).to.deep.equal(Buffer.from("x"));
    expect(reads).to.equal(3);
  });

  it("reads in one go what is asked for together", async () => {
    await batch({ type: "put", key: "a", value: Buffer.from("1") }, { type: "put", key: "b", value: Buffer.from("2") });
    const asked = ["b", "none", "a"].map((key) => get(key));
    const [b, none, a] = await Promise.all(asked);
    expect([b, a, reads]).to.deep.equal(["2", "1", 1]);
    expect(none).to.match(/notfound/i);
  });

  it("reads what was asked for before it is closed", async () => {
    await put("bytes", Buffer.from("1"));
    const asked = get("bytes");
    await promisify(level.close.bind(level))();
    expect(await asked).to.equal("1");
    await promisify(level.open.bind(level))({});
  });

  it("tells all who asked together of a failure", async () => {
    LevelDOWN.prototype._getMany = (_keys, _options, done) => done(new Error("Corruption: bad block"));
    expect(await Promise.all([get("a"), get("b")])).to.deep.equal(["Corruption: bad block", "Corruption: bad block"]);
  });

  it("forgets what is deleted", async () => {
    await put("a", "1");
    await batch({ type: "del", key: "a" }, { type: "put", key: "b", value: "2" });
    expect(await get("a")).to.match(/notfound/i);
    expect(await get("b")).to.equal("2");
  });

  it("asks LevelDB for what is being written, whatever was known of it", async () => {
    await put("a", "1");
    const written = put("a", "2");
    expect(await get("a")).to.be.oneOf(["1", "2"]);
    expect(reads).to.equal(1);
    await written;
    expect(await get("a")).to.equal("2");
    expect(reads).to.equal(1);
  });

  it("knows of two batches under way only what the later one wrote", async () => {
    const write = LevelDOWN.prototype._batch;
    const ended: (() => void)[] = [];
    LevelDOWN.prototype._batch = function (operations, options, done) {
      write.call(this, operations, options, (error) => ended.push(() => done(error)));
    };
    const batches = [put("a", "1"), put("a", "2")];
    LevelDOWN.prototype._batch = write;
    await eventually(() => expect(ended).to.have.length(2));
    ended[0]?.();
    await batches[0];
    expect([await get("a"), reads]).to.deep.equal(["2", 1]);
    ended[1]?.();
    await batches[1];
    expect([await get("a"), reads]).to.deep.equal(["2", 1]);
  });

  it("believes nothing of a batch that failed, and asks LevelDB what stands there", async () => {
    await put("a", "1");
    const write = LevelDOWN.prototype._batch;
    LevelDOWN.prototype._batch = (_operations, _options, done) => done(new Error("no space left on device"));
    const failed = await put("a", "2").catch((error: Error) => error.message);
    LevelDOWN.prototype._batch = write;
    expect(failed).to.equal("no space left on device");
    expect(await get("a")).to.equal("1");
    expect(reads).to.equal(1);
  });
});
