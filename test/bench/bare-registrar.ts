/**
 * The floor under a registration: an HTTP server that does nothing but the group commit. `PUT /<id>` writes the body, with
 * the fields of a record, to a database together with whatever else waits, and answers when its own row is acknowledged;
 * nothing is checked, remembered or followed. Prints its port.
 *
 * @example node --import tsx test/bench/bare-registrar.ts http://127.0.0.1:5984/some-database '{"kind":"component"}' '{"id":"x"}'
 */
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Pool } from "undici";
import { basicAuthorization } from "../../config-db/basic-auth.ts";

const [database = "", fields = "{}", text = ""] = process.argv.slice(2);
const url = new URL(database);
const { origin, pathname } = url;
const authorization = url.username === "" ? {} : { authorization: basicAuthorization(url) };
const pool = new Pool(origin, { connections: 2, pipelining: 1 });
const record = JSON.parse(fields);
const answer = Buffer.from(text);
const answerHeaders = { "content-type": "application/json", "content-length": answer.length };
let waiting: { doc: object; response: ServerResponse }[] = [];
let underWay = 0;

async function write(): Promise<void> {
  const batch = waiting;
  waiting = [];
  underWay += 1;
  const rows = await pool.request({
    method: "POST",
    path: `${pathname}/_bulk_docs`,
    headers: { "content-type": "application/json", ...authorization },
    body: JSON.stringify({ docs: batch.map(({ doc }) => doc) }),
  });
  const outcomes = (await rows.body.json()) as { error?: string }[];
  for (const [index, { response }] of batch.entries())
    response.writeHead(outcomes[index]?.error === undefined ? 201 : 503, answerHeaders).end(answer);
  underWay -= 1;
  writeSoon();
}

function writeSoon(): void {
  setImmediate(() => {
    if (underWay < 2 && waiting.length > 0 && waiting.length >= 32 * underWay) void write();
  });
}

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const id = request.url?.slice(1) as string;
    const registration = JSON.parse(Buffer.concat(chunks).toString());
    waiting.push({ doc: { ...record, ...registration, _id: `component:${id}`, id }, response });
    writeSoon();
  });
});
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port));
