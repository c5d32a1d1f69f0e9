/**
 * The floor under a warm read: an HTTP server that gives everybody one answer, its headers and its bytes made beforehand.
 * Prints its port.
 *
 * @example node --import tsx test/bench/bare-answer.ts '{"content-type":"application/json"}' '{"a":1}'
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

const [headers = "{}", text = ""] = process.argv.slice(2);
const head = JSON.parse(headers);
const body = Buffer.from(text);
const server = createServer((_request, response) => response.writeHead(200, head).end(body));
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port));
