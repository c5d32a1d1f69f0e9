import { expect } from "chai";
import { MusterError } from "../../config-db/errors.ts";
import { writeInHalves } from "../../coordinator/batches.ts";
import { expectError } from "../support/expect-error.ts";

describe("a batch that is written in halves", () => {
  const told: string[] = [];
  const refused = (item: string, { message }: MusterError) => void told.push(`${item} ${message}`);
  let written: string[][];
  beforeEach(() => {
    told.length = 0;
    written = [];
  });

  it("is written whole where the store takes it", async () => {
    await writeInHalves([..."abc"], async (part) => void written.push(part), refused);
    expect([written, told]).to.deep.equal([[["a", "b", "c"]], []]);
  });

  it("is written but for the guilty, in its order", async () => {
    const write = async (part: string[]) => {
      if (part.includes("b")) throw new MusterError("refused", "is odd");
      if (part.includes("f")) throw new MusterError("too-large", "is large");
      written.push(part);
    };
    await writeInHalves([..."abcdefg"], write, refused);
    expect(written.flat()).to.deep.equal([..."acdeg"]);
    expect(told).to.deep.equal(["b is odd", "f is large"]);
  });

  it("is given up where the store is away, after what was written", async () => {
    const write = async (part: string[]) => {
      if (part.length > 2) throw new MusterError("refused", "is odd");
      if (part.includes("c")) throw new MusterError("store-unavailable", "gone");
      written.push(part);
    };
    await expectError(() => writeInHalves([..."abcd"], write, refused), "store-unavailable");
    expect([written, told]).to.deep.equal([[["a", "b"]], []]);
  });
});
