/** Reads the bodies of HTTP messages, plain or gzip, up to a limit: of requests in the bridge and the embedded store, of a webhook's answers. */
import type { IncomingMessage } from "node:http";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";

/** `gone`: the connection was closed before the whole body had come; of a request there is nobody to answer. */
export type BodyFault = "too-large" | "encoding" | "broken" | "gone";

export class BodyError extends Error {
  override readonly name = "BodyError";
  readonly fault: BodyFault;

  constructor(fault: BodyFault, message: string) {
    super(message);
    this.fault = fault;
  }
}

/** Of what is over the limit so many times the limit is read and dropped, so that the client gets to read its refusal. */
const dropFactor = 8;

const nothing = Buffer.alloc(0);

/**
 * @param limitBytes of the body, unzipped. A client that sends far more is cut off.
 * @throws BodyError
 */
export async function readBody(request: IncomingMessage, limitBytes: number): Promise<Buffer> {
  const bytes = await collect(request, limitBytes);
  const encoding = request.headers["content-encoding"]?.toLowerCase() ?? "identity";
  if (encoding === "identity") return bytes;
  if (encoding === "gzip") return unzip(bytes, limitBytes);
  throw new BodyError("encoding", `Content-Encoding must be gzip or absent, got ${encoding.slice(0, 100)}`);
}

const unzipAll = promisify(gunzip);

/** @throws BodyError `too-large`, `broken` */
export async function unzip(bytes: Buffer, limitBytes: number): Promise<Buffer> {
  try {
    return await unzipAll(bytes, { maxOutputLength: limitBytes });
  } catch (error) {
    if ((error as { code?: string }).code === "ERR_BUFFER_TOO_LARGE") throw tooLarge(limitBytes);
    throw new BodyError("broken", "the gzip data is broken");
  }
}

function collect(request: IncomingMessage, limitBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let chunks: Buffer[] = [];
    let sizeBytes = 0;
    request.on("data", (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes <= limitBytes) chunks.push(chunk);
      else chunks = [];
      if (sizeBytes > limitBytes * dropFactor) request.destroy();
    });
    request.once("end", () => {
      const [first = nothing, ...more] = chunks;
      if (sizeBytes > limitBytes) reject(tooLarge(limitBytes));
      else resolve(more.length === 0 ? first : Buffer.concat(chunks));
    });
    request.once("error", () => {});
    request.once("close", () => {
      if (sizeBytes > limitBytes) reject(tooLarge(limitBytes));
      else if (!request.readableEnded)
        reject(new BodyError("gone", "the connection closed before the whole body had come"));
    });
  });
}

function tooLarge(limitBytes: number): BodyError {
  return new BodyError("too-large", `the body is larger than ${limitBytes} bytes`);
}
