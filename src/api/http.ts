/**
 * The read-only side over HTTP, by default on loopback: for Prometheus, health checks, and tools on the gateway. A page in
 * a browser there must not be able to read it: no CORS, and a Host header that is a name from outside is refused, so
 * that a name which was pointed at 127.0.0.1 (DNS rebinding) gets nothing.
 */
import type { IncomingMessage, Server } from "node:http";
import { isIP } from "node:net";
import { hostname } from "node:os";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { createServer } from "./node-http.ts";
import type { HttpOptions } from "./options.ts";
import { answer, send } from "./routes.ts";
import type { ApiHandlers } from "./types.ts";

/** Serves {@link ApiHandlers}, GET alone. */
export class HttpServer {
  readonly #options: HttpOptions;
  readonly #handlers: ApiHandlers;
  #server: Server | undefined;

  constructor(options: HttpOptions, handlers: ApiHandlers) {
    this.#options = options;
    this.#handlers = handlers;
  }

  /** Where it listens, once it does. */
  get address(): { readonly host: string; readonly port: number } | undefined {
    const address = this.#server?.address();
    return typeof address === "object" && address !== null
      ? { host: address.address, port: address.port }
      : undefined;
  }

  /** @throws WeirError `http.port-in-use` when it can't listen */
  async start(): Promise<void> {
    const { host, port } = this.#options;
    const limits = {
      maxHeaderSize: 8192,
      requestTimeout: 10_000,
      headersTimeout: 5_000,
      keepAliveTimeout: 5_000,
    };
    const server = createServer(limits, (request, response) => {
      if (!isLocalName(request, host))
        send(response, 421, { error: "this name is not mine: ask for localhost" });
      else if (hasBody(request)) {
        response.setHeader("connection", "close");
        send(response, 413, { error: "no request has a body here" });
      } else void answer(request, response, this.#handlers, true);
    });
    server.maxConnections = 64;
    await new Promise<void>((resolve, reject) => {
      server.once("error", (cause) => {
        const why =
          errnoOf(cause) === "EADDRINUSE"
            ? "is taken by another program"
            : `can't be had: ${messageOf(cause)}`;
        reject(new WeirError("http.port-in-use", `${host}:${port} ${why}`, { cause }));
      });
      server.listen(port, host, resolve);
    });
    server.on("error", () => {});
    this.#server = server;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

/** Whether the Host header is an address, `localhost`, this machine's name, or what the configuration says. */
function isLocalName({ headers }: IncomingMessage, configured: string): boolean {
  const name = (headers.host ?? "")
    .replace(/:\d+$/, "")
    .replace(/^\[|\]$/g, "")
    .toLowerCase();
  return isIP(name) !== 0 || [hostname().toLowerCase(), configured.toLowerCase(), "localhost"].includes(name);
}

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
