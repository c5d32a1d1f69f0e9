import { expect } from "chai";
import { Payload } from "../../clients/typescript/src/message.ts";

describe("a payload of the client", () => {
  it("takes what can be a content type, up to 200 characters", () => {
    expect(new Payload("text/csv; charset=utf-8", "a,b").contentType).to.equal("text/csv; charset=utf-8");
    expect(new Payload(`a/${"b".repeat(198)}`, "").contentType).to.have.lengthOf(200);
  });

  for (const contentType of ["", `a/${"b".repeat(199)}`, "text/plain\r\nx: y", "text/ä", undefined]) {
    it(`refuses ${JSON.stringify(contentType)?.slice(0, 20)} at once`, () => {
      expect(() => new Payload(contentType as string, "x")).to.throw(/a content type must match/);
    });
  }
});
