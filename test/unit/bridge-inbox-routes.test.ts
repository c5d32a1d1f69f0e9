import { expect } from "chai";
import { MusterError } from "../../config-db/errors.ts";
import { inboxRoutes } from "../../coordinator/bridge/inbox-routes.ts";
import type { Answer, RequestContext, Route } from "../../coordinator/bridge/route.ts";
import type { Inbox } from "../../coordinator/messaging/inbox.ts";
import type { Member } from "../../coordinator/messaging/members.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { codeOf } from "../support/codes.ts";
import { eventually } from "../support/eventually.ts";

describe("a poll of an inbox", () => {
  const member: Member = { id: "a", type: "t", site: "here", state: "up", ttlMs: 1_000 };
  let touched: string[];
  let newest: number;
  let open: (inbox: Inbox) => void;

  /** Polls the inbox of `id`, whose queues stand when the test calls `open`. */
  async function poll(id: string, query: RequestContext["query"] = {}): Promise<Answer> {
    const opened = new Promise<Inbox>((resolve) => {
      open = resolve;
    });
    const [route] = inboxRoutes({
      messaging: { inboxes: { of: () => opened } } as unknown as Messaging,
      members: { get: (known) => (known === member.id ? member : undefined), all: () => [member] },
      site: "here",
      signs: {
        touch: ({ id: alive, incarnation = newest }) => {
          if (incarnation < newest) throw new MusterError("superseded", "a newer process has it");
          touched.push(alive);
        },
        ttlMsOf: () => 3,
      },
    }) as [Route];
    const request = { params: { id }, query, header: () => undefined, signal: new AbortController().signal };
    return await route.handle(request as unknown as RequestContext);
  }

  beforeEach(() => {
    touched = [];
    newest = 2;
  });

  it("keeps the lease while its queues are declared", async () => {
    const answer = poll("a");
    await eventually(() => expect(touched.length).to.be.above(3));
    open({ poll: async () => [] } as unknown as Inbox);
    expect(await answer).to.deep.equal({ status: 200, body: { messages: [] } });
    expect(new Set(touched)).to.deep.equal(new Set(["a"]));
  });

  it("is refused to an older process, before its queues are looked for", async () => {
    expect(await codeOf(poll("a", { incarnation: 1 }))).to.equal("superseded");
    expect(touched).to.deep.equal([]);
  });

  it("ends, while it waits, when a newer process has the id", async () => {
    const answer = codeOf(poll("a", { incarnation: 2 }));
    open({
      poll: ({ signal }: { signal: AbortSignal }) =>
        new Promise((resolve) => signal.addEventListener("abort", () => resolve([]))),
    } as unknown as Inbox);
    await eventually(() => expect(touched.length).to.be.above(3));
    newest = 3;
    expect(await answer).to.equal("superseded");
  });

  it("is no sign of life of who is not registered", async () => {
    expect(await codeOf(poll("b"))).to.equal("not-registered");
    expect(touched).to.deep.equal([]);
  });
});
