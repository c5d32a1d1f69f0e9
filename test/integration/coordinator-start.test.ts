import { expect } from "chai";
import { pino } from "pino";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { Coordinator } from "../../coordinator/coordinator.ts";
import { readSettings } from "../../coordinator/settings.ts";
import { type StoreFront, startStoreFront } from "../support/store-front.ts";

describe("a coordinator that starts", () => {
  const open: { close(): Promise<void> }[] = [];

  afterEach(async () => {
    for (const part of open.splice(0).reverse()) await part.close();
  });

  function opened<Part extends { close(): Promise<void> }>(part: Part): Part {
    open.push(part);
    return part;
  }

  function coordinator(storeUrl: string, flags: string[] = []): { coordinator: Coordinator; logged: string[] } {
    const logged: string[] = [];
    const settings = readSettings(["--http-port", "0", "--couchdb-url", storeUrl, ...flags], {});
    const logger = pino({ level: "warn" }, { write: (line: string) => void logged.push(line) });
    return { coordinator: opened(new Coordinator(settings, { logger })), logged };
  }

  /** A read is asked again at once, twice; only then it is the start that waits. */
  const attempts = 3;
  const requests: [RegExp, ...string[]][] = [
    [/^GET \/$/],
    [/^PUT \/muster-config$/],
    [/_revs_limit/],
    [/_design/],
    [/_local\/muster-site/],
    [/^GET \/muster-registry\/site:/],
    [/^GET \/muster-config\/_changes/],
    [/^GET \/muster-registry\/_changes/],
    // With a broker, be it away, commands are tracked.
    [/^GET \/muster-commands\/_changes/, "--amqp-url", "amqp://127.0.0.1:1"],
    [/^GET \/muster-commands\/_all_docs/],
  ];
  for (const [matches, ...flags] of requests) {
    it(`waits for a store that is lost at ${matches}`, async () => {
      const embedded: Embedded = opened(await startEmbedded());
      const front: StoreFront = opened(await startStoreFront(embedded.url));
      const isBroken = front.breakNext(matches, attempts);
      const { coordinator: started, logged } = coordinator(front.url, flags);
      const { url } = await started.start();
      expect(isBroken()).to.equal(true);
      expect(logged.join("")).to.include("the store does not answer yet; trying again");
      const answer = await fetch(`${url}/v1/components`, { headers: { connection: "close" } });
      expect([answer.status, await answer.json()]).to.deep.equal([200, { components: [] }]);
    });
  }

  it("ends when the store refuses its credentials, and says so", async () => {
    const embedded = opened(await startEmbedded({ credentials: { user: "op", password: "right" } }));
    const { coordinator: started } = coordinator(wrongly(embedded.url));
    const said = await started.start().then(
      () => "nothing",
      (error: Error) => error.message,
    );
    expect(said).to.match(/refuses the credentials/);
  });
});

function wrongly(storeUrl: string): string {
  const url = new URL(storeUrl);
  url.username = "op";
  url.password = "wrong";
  return url.href;
}
