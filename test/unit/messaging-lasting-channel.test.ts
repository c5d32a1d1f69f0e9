import { setImmediate as turn } from "node:timers/promises";
import { expect } from "chai";
import { pino } from "pino";
import { LastingChannel } from "../../coordinator/messaging/lasting-channel.ts";
import { Link } from "../../coordinator/messaging/link.ts";

const logger = pino({ level: "silent" });

describe("a lasting channel without a broker", () => {
  it("is waited for by many without a warning of leaked listeners, and refuses all when it is closed", async () => {
    const warnings: Error[] = [];
    const hear = (warning: Error) => warnings.push(warning);
    process.on("warning", hear);
    // Never started, it never connects.
    const link = new Link({ url: "amqp://127.0.0.1:1", name: "test", logger });
    const channel = new LastingChannel({ link, name: "test", logger });
    const waiting = Array.from({ length: 50 }, () => channel.opened(new AbortController().signal));
    await turn();
    process.off("warning", hear);
    await channel.close();
    const outcomes = await Promise.allSettled(waiting);
    expect(outcomes.map(({ status }) => status)).to.deep.equal(waiting.map(() => "rejected"));
    expect(warnings).to.deep.equal([]);
  });
});
