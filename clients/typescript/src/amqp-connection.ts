/** A connection to the broker, made to be fast and to notice when it is dead. */
import type { Socket } from "node:net";
import { type Channel, type ChannelModel, connect } from "amqplib";

const connectTimeoutMs = 5_000;
/** Two missed ones end a connection: a broker that froze or a cable that was pulled is noticed in 20 to 30 s. */
const heartbeatSeconds = 10;
const closeTimeoutMs = 2_000;

/** @param name is shown in the broker's lists. */
export async function connectBroker(brokerUrl: string, name: string): Promise<ChannelModel> {
  const url = new URL(brokerUrl);
  if (!url.searchParams.has("heartbeat")) url.searchParams.set("heartbeat", String(heartbeatSeconds));
  const connection = await connect(url.href, {
    noDelay: true,
    keepAlive: true,
    timeout: connectTimeoutMs,
    clientProperties: { connection_name: name },
  });
  batchWrites(socketOf(connection));
  return connection;
}

/**
 * Politely, and after a while by force: a half-open connection never answers the close. Never rejects.
 * @param channels of which something may still be on its way: amqplib sends the close of a connection before what its
 * channels have to send, even what was handed to them earlier, and the broker then gives out again what was acknowledged.
 */
export async function closeConnection(connection: ChannelModel, channels: readonly Channel[] = []): Promise<void> {
  const timer = setTimeout(
    () => socketOf(connection).destroy(new Error(`no answer to the close in ${closeTimeoutMs} ms`)),
    closeTimeoutMs,
  );
  // One that ends without the broker's answer only tells by the event.
  const ended = new Promise((resolve) => connection.once("close", resolve));
  await Promise.race([ended, Promise.allSettled(channels.map(async (channel) => channel.close()))]);
  await Promise.race([ended, connection.close().catch(() => undefined)]);
  clearTimeout(timer);
}

function socketOf(connection: ChannelModel): Socket {
  return (connection.connection as unknown as { stream: Socket }).stream;
}

/**
 * Makes one system call of all that is written in one turn of the event loop: amqplib writes each message and each ack
 * by itself, and under load that is what a publisher spends most of its time on.
 */
function batchWrites(socket: Socket): void {
  const write = socket.write.bind(socket) as (...given: unknown[]) => boolean;
  let isCorked = false;
  const flush = () => {
    isCorked = false;
    socket.uncork();
  };
  socket.write = (...given: unknown[]) => {
    if (!isCorked) {
      isCorked = true;
      socket.cork();
      process.nextTick(flush);
    }
    return write(...given);
  };
}
