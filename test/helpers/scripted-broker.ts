/** An MQTT broker that misbehaves as it is told: real packets on a real socket, for what no real broker does on demand. */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createSecure, TLSSocket, type TlsOptions } from "node:tls";
import {
  generate,
  type IConnackPacket,
  type IConnectPacket,
  type IPublishPacket,
  type Packet,
  parser,
} from "mqtt-packet";

/** What it does; what isn't given is done as a good broker does. */
export interface Script {
  /** properties and reason of CONNACK */
  readonly connack?: () => Partial<IConnackPacket>;
  /** the reason code of a PUBACK or PUBREC; undefined: no answer */
  readonly puback?: (packet: IPublishPacket) => number | undefined;
  /** the reason code of a SUBACK; undefined: as asked for */
  readonly suback?: () => number;
  /** after each packet that came in */
  readonly after?: (packet: Packet, connection: Connection) => void;
}

/** One client's connection. */
export class Connection {
  readonly #socket: Socket;
  readonly connect: IConnectPacket;

  constructor(socket: Socket, connect: IConnectPacket) {
    this.#socket = socket;
    this.connect = connect;
  }

  /** the version of TLS and the protocol that was agreed on; undefined without TLS */
  get security(): string | undefined {
    const socket = this.#socket;
    return socket instanceof TLSSocket ? `${socket.getProtocol()} ${socket.alpnProtocol}` : undefined;
  }

  send(packet: Packet): void {
    const protocolVersion = this.connect.protocolVersion ?? 4;
    if (this.#socket.writable) this.#socket.write(generate(packet, { protocolVersion }));
  }

  /** Bytes that need be no packet. */
  write(bytes: Uint8Array): void {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  /** DISCONNECT with a reason, then the end. */
  disconnect(reasonCode: number): void {
    this.send({ cmd: "disconnect", reasonCode });
    this.#socket.end();
  }

  end(): void {
    this.#socket.destroy();
  }
}

/** The broker. */
export class ScriptedBroker {
  script: Script;
  /** publishes, in the order they came */
  readonly published: IPublishPacket[] = [];
  readonly connections: Connection[] = [];
  readonly #server: Server;
  readonly #secure: boolean;
  readonly #sockets = new Set<Socket>();

  private constructor(script: Script, tls: TlsOptions | undefined) {
    this.script = script;
    const serve = (socket: Socket): void => this.#serve(socket);
    this.#secure = tls !== undefined;
    this.#server = tls === undefined ? createServer(serve) : createSecure(tls, serve);
  }

  /** Listens on a free port of 127.0.0.1, or on the one given; with TLS where its options are given. */
  static async start(script: Script = {}, port = 0, tls?: TlsOptions): Promise<ScriptedBroker> {
    const broker = new ScriptedBroker(script, tls);
    broker.#server.listen(port, "127.0.0.1");
    await once(broker.#server, "listening");
    return broker;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" ? (address?.port ?? 0) : 0;
  }

  get url(): string {
    return `mqtt${this.#secure ? "s" : ""}://127.0.0.1:${this.port}`;
  }

  /** What came, without status messages. */
  get batches(): IPublishPacket[] {
    return this.published.filter(({ topic }) => !topic.endsWith("/status"));
  }

  /** Ends; a second call does nothing. */
  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, "close");
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => {});
    const read = parser();
    let connection: Connection | undefined;
    read.on("packet", (packet) => {
      if (packet.cmd === "connect") {
        connection = new Connection(socket, packet);
        this.connections.push(connection);
        connection.send({
          cmd: "connack",
          sessionPresent: false,
          reasonCode: 0,
          returnCode: 0,
          ...this.script.connack?.(),
        });
      } else if (connection !== undefined) this.#answer(packet, connection);
      if (connection !== undefined) this.script.after?.(packet, connection);
    });
    socket.on("data", (bytes) => read.parse(Buffer.from(bytes)));
  }

  #answer(packet: Packet, connection: Connection): void {
    if (packet.cmd === "publish") {
      this.published.push(packet);
      if (packet.qos === 0) return;
      const { messageId } = packet;
      const reasonCode = this.script.puback === undefined ? 0 : this.script.puback(packet);
      if (reasonCode === undefined || messageId === undefined) return;
      connection.send({ cmd: packet.qos === 2 ? "pubrec" : "puback", messageId, reasonCode });
    } else if (packet.cmd === "pubrel") {
      connection.send({ cmd: "pubcomp", messageId: packet.messageId ?? 0, reasonCode: 0 });
    } else if (packet.cmd === "subscribe") {
      const granted = packet.subscriptions.map(({ qos }) => this.script.suback?.() ?? qos);
      connection.send({ cmd: "suback", messageId: packet.messageId ?? 0, granted });
    } else if (packet.cmd === "pingreq") connection.send({ cmd: "pingresp" });
  }
}
