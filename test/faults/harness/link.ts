/** A TCP link between Weir and a broker that breaks on command, in the ways that links do. */
import { once } from "node:events";
import { createServer, connect as dial, type Server, type Socket } from "node:net";
import { freePort } from "../../helpers/free-port.ts";

/** A link to a port on this host. */
export class Link {
  readonly #to: number;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #server: Server | undefined;
  #stalled = false;
  port = 0;
  /** connections that were made over it */
  connections = 0;

  constructor(to: number) {
    this.#to = to;
  }

  async start(): Promise<void> {
    // One that nobody else is given while it is cut.
    if (this.port === 0) this.port = await freePort();
    const server = createServer((from) => this.#join(from)).listen(this.port, "127.0.0.1");
    await once(server, "listening");
    this.#server = server;
  }

  #join(from: Socket): void {
    this.connections += 1;
    const to = dial(this.#to, "127.0.0.1");
    const pair = [from, to] as const;
    this.#pairs.add(pair);
    const forward = (source: Socket, target: Socket): void => {
      source.on("error", () => {});
      source.on("data", (bytes) => {
        if (this.#stalled) return;
        if (!target.write(bytes)) {
          source.pause();
          target.once("drain", () => source.resume());
        }
      });
      source.on("close", () => {
        // A half-open peer is one that nobody told.
        if (!this.#stalled) target.destroy();
        this.#pairs.delete(pair);
      });
    };
    forward(from, to);
    forward(to, from);
  }

  /** Every connection is reset. */
  reset(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  /** Bytes vanish, connections stay: what a router that lost its table does. */
  stall(): void {
    this.#stalled = true;
  }

  /** New connections work again. Those that lost bytes are gone. */
  unstall(): void {
    this.#stalled = false;
    this.reset();
  }

  /** Nobody answers at the port any more. */
  async cut(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.reset();
    if (server !== undefined) await new Promise((done) => server.close(done));
  }
}
