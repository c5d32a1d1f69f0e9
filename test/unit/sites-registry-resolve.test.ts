import { expect } from "chai";
import type { Leaf } from "../../coordinator/sites/ancestry.ts";
import { type RegistryRecord, resolveRecord } from "../../coordinator/sites/registry-resolve.ts";

describe("two branches of a component's record", () => {
  const leaf = (generation: number, fields: Partial<RegistryRecord>): Leaf<RegistryRecord> => {
    const rev = `${generation}-${generation.toString(16).repeat(32)}`;
    const record = { _id: "component:c", site: "east", state: "up", incarnation: 2, epoch: 1, ...fields };
    return { rev, path: [rev], doc: { ...record, _rev: rev } };
  };
  const shown = (leaves: Leaf<RegistryRecord>[]) => {
    const written = resolveRecord(leaves)?.filter((doc) => !("mergedInto" in doc)) ?? [];
    expect(written).to.have.length(1);
    return written[0];
  };
  /** What settled the branches when the component had moved: on the longer branch, of its former site. */
  const copied = leaf(9, { changedAt: "2026-01-01T00:00:00.000Z", metadata: { v: 2 } });

  it("become what its site made of it since the branches were settled", () => {
    const since = leaf(4, { changedAt: "2026-01-01T00:00:01.000Z", metadata: { v: 3 } });
    for (const leaves of [
      [copied, since],
      [since, copied],
    ])
      expect(shown(leaves)).to.deep.include({ metadata: { v: 3 } });
  });

  it("become its removal, where its site removed it since", () => {
    const since = leaf(4, { changedAt: "2026-01-01T00:00:01.000Z", state: "gone", _deleted: true });
    expect(shown([copied, since])).to.include({ _deleted: true });
  });

  it("become the same whatever stands beside them", () => {
    const gone = leaf(4, { changedAt: "2026-01-01T00:00:01.000Z", state: "gone" });
    const other = leaf(6, { site: "atlantis", metadata: { v: 7 } });
    const orders = [
      [copied, gone, other],
      [gone, other, copied],
      [other, copied, gone],
    ];
    for (const leaves of orders) expect(shown(leaves)).to.include({ site: "atlantis" });
  });
});
