import { randomBytes } from "node:crypto";
import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases, documentId } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("a coordinator that has not heard yet what another of its site wrote", () => {
  let embedded: Embedded;
  let other: ConfigSite;
  let late: ConfigSite;
  let isLate = false;

  before(async () => {
    embedded = await startSiteStore();
    const secretKey = randomBytes(32);
    other = await startConfigSite({ storeUrl: embedded.url, secretKey });
    late = await startConfigSite({ storeUrl: embedded.url, secretKey, leads: () => false, hears: () => !isLate });
  });
  beforeEach(() => {
    isLate = true;
  });
  after(async () => {
    await late?.close();
    await other?.close();
    await embedded?.close();
  });

  const database = () => new Store(embedded.url).database<Document & { version: number }>(databases.config);

  describe("and is given a secret's former value", () => {
    const putSecret = async (at: ConfigSite, name: string, value: string) =>
      (await at.call("PUT", `/v1/config/secrets/${name}`, { value })).status;
    const versionOf = async (name: string) => (await database().get(documentId.secret(name)))?.version;

    it("writes it", async () => {
      const name = fresh("secret");
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await putSecret(other, name, "two")).to.equal(204);
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await versionOf(name)).to.equal(3);
    });

    it("writes it over what is no secret", async () => {
      const name = fresh("secret");
      expect(await putSecret(late, name, "one")).to.equal(204);
      const stored = await database().get(documentId.secret(name));
      await database().bulk([{ ...stored, sealed: {}, version: 7 } as unknown as Document & { version: number }]);
      expect(await putSecret(late, name, "one")).to.equal(204);
      expect(await database().get(documentId.secret(name))).to.have.nested.property("sealed.ciphertext");
    });

    it("writes nothing where the value is the same in the store", async () => {
      const name = fresh("secret");
      for (const at of [late, other, late]) expect(await putSecret(at, name, "one")).to.equal(204);
      expect(await versionOf(name)).to.equal(1);
    });
  });
});
