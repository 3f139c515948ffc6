/** The agent's own interface: HTTP over a Unix socket in the data folder (mode 0600), for the command line. */
import { chmodSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { createServer } from "./node-http.ts";
import { answer } from "./routes.ts";
import type { ApiHandlers } from "./types.ts";

/** A Unix socket's path has room for 108 bytes, with a final NUL (unix(7)). */
const MOST_PATH_BYTES = 107;
/** At a stop, answers that are under way have this long. */
const MOST_ANSWER_MS = 1_000;

/** Serves {@link ApiHandlers} on a Unix socket. */
export class ApiServer {
  readonly #path: string;
  readonly #handlers: ApiHandlers;
  #server: Server | undefined;

  constructor(path: string, handlers: ApiHandlers) {
    this.#path = path;
    this.#handlers = handlers;
  }

  /** Listens. The caller holds the data folder's lock, so a socket left from before can go. */
  async start(): Promise<void> {
    if (Buffer.byteLength(this.#path) > MOST_PATH_BYTES) {
      throw new Error(
        `${this.#path}: too long for a socket, which takes ${MOST_PATH_BYTES} bytes: set a shorter data.dir`,
      );
    }
    rmSync(this.#path, { force: true });
    const server = createServer({ maxHeaderSize: 8192, requestTimeout: 10_000 }, (request, response) => {
      void answer(request, response, this.#handlers, false);
    });
    server.maxConnections = 32;
    // The socket exists before it can be given its mode: no one else is to get in between.
    const before = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(this.#path, resolve);
      });
    } finally {
      process.umask(before);
    }
    chmodSync(this.#path, 0o600);
    this.#server = server;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    // Whoever has asked gets an answer: it may only be that the socket is made anew.
    const late = setTimeout(() => server.closeAllConnections(), MOST_ANSWER_MS);
    await new Promise((resolve) => server.close(resolve));
    clearTimeout(late);
    rmSync(this.#path, { force: true });
  }
}
