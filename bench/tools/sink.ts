/**
 * An upstream that only acknowledges: answers CONNECT, PUBLISH (QoS 1) and PINGREQ, keeps nothing but counts. Prints its port;
 * at SIGUSR2 and at SIGTERM one line of JSON: messages, and batches and samples that arrived by their keys.
 */
import { createServer } from "node:net";
import { parser } from "mqtt-packet";

const keys = new Set<string>();
let samples = 0;
let messages = 0;
const server = createServer((socket) => {
  const parse = parser({ protocolVersion: 4 });
  parse.on("packet", (packet) => {
    if (packet.cmd === "connect") socket.write(Buffer.from([0x20, 2, 0, 0]));
    else if (packet.cmd === "pingreq") socket.write(Buffer.from([0xd0, 0]));
    else if (packet.cmd === "publish") {
      messages += 1;
      if (packet.qos === 1)
        socket.write(Buffer.from([0x40, 2, (packet.messageId ?? 0) >> 8, (packet.messageId ?? 0) & 255]));
      const [, id, span] =
        /"id":"([^"]+)".*?"span":(\d+)/.exec(packet.payload.toString("latin1", 0, 300)) ?? [];
      if (id !== undefined && !keys.has(id)) {
        keys.add(id);
        samples += Number(span);
      }
    }
  });
  parse.on("error", () => socket.destroy());
  socket.on("data", (data) => parse.parse(Buffer.from(data)));
  socket.on("error", () => {});
});
server.listen(0, "127.0.0.1", () => {
  const address = server.address();
  process.stdout.write(`${typeof address === "object" ? address?.port : 0}\n`);
});
const report = (): void => {
  process.stdout.write(`${JSON.stringify({ messages, batches: keys.size, samples })}\n`);
};
process.on("SIGUSR2", report);
process.on("SIGTERM", () => {
  report();
  process.exit(0);
});
