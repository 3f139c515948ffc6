/** A broker that misbehaves on purpose, written over mqtt-packet alone. */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import mqttPacket, { type Packet } from "mqtt-packet";

/** What it does with a packet; undefined: as a sound broker would. */
export type Answer = (packet: Packet, socket: Socket) => Packet | "silence" | undefined;

/** Listens at a port and answers every connection by `answer`; what that leaves open is acknowledged. */
export class OddBroker {
  readonly #answer: Answer;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  /** connections, and PUBLISH packets of stream `data` that came */
  connections = 0;
  publishes = 0;

  constructor(answer: Answer) {
    this.#answer = answer;
  }

  async start(port: number): Promise<void> {
    this.#server = createServer((socket) => this.#serve(socket)).listen(port, "127.0.0.1");
    await once(this.#server, "listening");
  }

  #serve(socket: Socket): void {
    this.connections += 1;
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    const parser = mqttPacket.parser({ protocolVersion: 5 });
    parser.on("packet", (packet) => {
      if (packet.cmd === "publish" && packet.topic.endsWith("/data")) this.publishes += 1;
      const answer = this.#answer(packet, socket) ?? usual(packet);
      if (answer !== "silence" && socket.writable)
        mqttPacket.writeToStream(answer, socket, { protocolVersion: 5 });
    });
    socket.on("data", (bytes: Buffer) => parser.parse(bytes));
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const server = this.#server;
    if (server !== undefined) await new Promise((done) => server.close(done));
  }
}

function usual(packet: Packet): Packet | "silence" {
  if (packet.cmd === "connect") return { cmd: "connack", reasonCode: 0, sessionPresent: false };
  if (packet.cmd === "publish" && packet.qos === 1)
    return { cmd: "puback", messageId: packet.messageId ?? 0, reasonCode: 0 };
  if (packet.cmd === "pingreq") return { cmd: "pingresp" };
  return "silence";
}
