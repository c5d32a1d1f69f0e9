import { connect } from "node:net";

const protocolHeader = Buffer.from([0x41, 0x4d, 0x51, 0x50, 0, 0, 9, 1]);

/** True when an AMQP 0-9-1 server answers on `port` within `timeoutMs`: it sends connection.start (class 10, method 10). */
export async function answersAmqp(port: number, host = "127.0.0.1", timeoutMs = 2_000): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const socket = connect({ port, host });
    let received = Buffer.alloc(0);
    const end = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(timeoutMs, () => end(false));
    socket.once("connect", () => socket.write(protocolHeader));
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      // A frame: type, channel (2), size (4), then class and method (2 each).
      if (received.length >= 11) {
        end(received[0] === 1 && received.readUInt16BE(7) === 10 && received.readUInt16BE(9) === 10);
      }
    });
    socket.once("error", () => end(false));
    socket.once("close", () => end(false));
  });
}
