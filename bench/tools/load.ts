/**
 * A load of messages, as a program of its own: `load.ts <port> <connections> <messages> <perSecond|0> [topic] [qos]`, QoS 1
 * if nothing is said. Writes packets by hand, so that it is not the limit. Every message is 100 bytes of JSON with six values.
 * Prints one line of JSON: messages, seconds, and the time from PUBLISH to PUBACK in milliseconds. QoS 0 ends when a PINGREQ
 * behind the last message is answered.
 */
import { connect, type Socket } from "node:net";

const [port = 1883, connections = 8, messages = 100_000, perSecond = 0] = process.argv
  .slice(2, 6)
  .map(Number);
const prefix = process.argv[6] ?? "devices/load-";
const qos = Number(process.argv[7] ?? 1);
/** Bytes written on one connection and not yet taken, at which no more QoS 0 is. */
const UNREAD = 256 * 1024;
/** Unacknowledged messages on one connection at a time. */
const WINDOW = 2048;

function connectPacket(id: string): Buffer {
  const body = Buffer.from([0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, id.length, ...Buffer.from(id)]);
  return Buffer.concat([Buffer.from([0x10, body.length]), body]);
}

const payload = (n: number): string =>
  `{"temp_c":${(20 + (n % 500) / 10).toFixed(1)},"rpm":${1000 + (n % 700)},"flow":${n % 97},"level":${(n % 31) / 4},"load":${n % 13},"seq":${n}}`.padEnd(
    100,
  );

function publishPacket(topic: string, id: number, text: string): Buffer {
  const length = 2 + topic.length + 2 * qos + text.length;
  const size = length > 127 ? 2 : 1;
  const packet = Buffer.allocUnsafe(1 + size + length);
  packet[0] = 0x30 | (qos << 1);
  packet[1] = size === 2 ? (length & 127) | 128 : length;
  if (size === 2) packet[2] = length >> 7;
  let at = packet.writeUInt16BE(topic.length, 1 + size);
  at += packet.write(topic, at, "latin1");
  if (qos > 0) at = packet.writeUInt16BE(id, at);
  packet.write(text, at, "latin1");
  return packet;
}

interface Connection {
  readonly socket: Socket;
  readonly topic: string;
  readonly sentAt: Float64Array;
  id: number;
  out: number;
  rest: Buffer;
}

const latencies: number[] = [];
let sent = 0;
let acknowledged = 0;
let answered = 0;
let started = 0;
const finished = Promise.withResolvers<void>();

function send(connection: Connection, most: number): void {
  const batch: Buffer[] = [];
  while (batch.length < most && connection.out < WINDOW && sent < messages) {
    connection.id = (connection.id % 65_535) + 1;
    connection.sentAt[connection.id] = performance.now();
    batch.push(publishPacket(connection.topic, connection.id, payload(sent)));
    connection.out += qos;
    sent += 1;
  }
  if (batch.length > 0) connection.socket.write(Buffer.concat(batch));
}

function received(connection: Connection, data: Buffer): void {
  const bytes = connection.rest.byteLength > 0 ? Buffer.concat([connection.rest, data]) : data;
  let at = 0;
  const now = performance.now();
  if (qos === 0 && bytes.byteLength >= 2) {
    answered += 1;
    if (answered === connections) finished.resolve();
    return;
  }
  for (; at + 4 <= bytes.byteLength; at += 4) {
    if (bytes[at] !== 0x40) throw new Error(`packet type ${bytes[at]} where a PUBACK was expected`);
    const id = bytes.readUInt16BE(at + 2);
    if ((acknowledged & 15) === 0) latencies.push(now - (connection.sentAt[id] ?? now));
    acknowledged += 1;
    connection.out -= 1;
  }
  connection.rest = bytes.subarray(at);
  if (acknowledged === messages) finished.resolve();
  else if (perSecond === 0) send(connection, 512);
}

const open = await Promise.all(
  Array.from({ length: connections }, async (_, i) => {
    const socket = connect(port, "127.0.0.1");
    socket.setNoDelay(true);
    socket.write(connectPacket(`load-${process.pid}-${i}`));
    await new Promise((done) => socket.once("data", done));
    const connection: Connection = {
      socket,
      topic: `${prefix}${i}/t`,
      sentAt: new Float64Array(65_536),
      id: 0,
      out: 0,
      rest: Buffer.alloc(0),
    };
    socket.on("data", (data) => received(connection, Buffer.from(data)));
    socket.on("close", () => finished.reject(new Error("the broker closed a connection")));
    return connection;
  }),
);

started = performance.now();
if (qos === 0 && perSecond === 0) {
  const more = (connection: Connection): void => {
    while (sent < messages && connection.socket.writableLength < UNREAD) send(connection, 256);
    if (sent < messages) connection.socket.once("drain", () => more(connection));
    else connection.socket.write(Buffer.from([0xc0, 0]));
  };
  for (const connection of open) more(connection);
} else if (perSecond === 0) for (const connection of open) send(connection, WINDOW);
else {
  // Goes round over all of them, tick after tick: one that is left out for long is disconnected for its silence.
  let next = 0;
  const timer = setInterval(() => {
    const due = Math.min(messages, Math.floor(((performance.now() - started) / 1000) * perSecond));
    while (sent < due) {
      const connection = open[next];
      next = (next + 1) % open.length;
      if (connection !== undefined) send(connection, Math.max(1, Math.ceil((due - sent) / open.length)));
      if (open.every(({ out }) => out >= WINDOW)) break;
    }
    if (sent === messages) clearInterval(timer);
  }, 1);
}
await finished.promise;
const seconds = (performance.now() - started) / 1000;
latencies.sort((a, b) => a - b);
const at = (share: number): number =>
  Number((latencies[Math.floor(latencies.length * share)] ?? 0).toFixed(2));
process.stdout.write(`${JSON.stringify({ messages, seconds, p50: at(0.5), p99: at(0.99) })}\n`);
for (const { socket } of open) socket.destroy();
