import { expect } from "chai";
import { encodeBody, Payload } from "../../clients/typescript/src/message.ts";

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

  const deep = `${"[".repeat(257)}${"]".repeat(257)}`;
  for (const [contentType, content] of [
    ["application/json", "{"],
    ["application/problem+json; charset=utf-8", "<a/>"],
    ["application/json", deep],
  ] as const) {
    it(`is refused at sending when it is no ${contentType}: ${content.slice(0, 4)}`, () => {
      expect(() => encodeBody(new Payload(contentType, content))).to.throw(/is not what its content type/);
    });
  }

  it("is sent as it is when it is JSON, and when it is none and does not say so", () => {
    for (const payload of [new Payload("application/json", ' {"a":1}'), new Payload("text/plain", deep)]) {
      expect(encodeBody(payload)).to.equal(payload);
    }
  });
});
