/** The agent's own interface: HTTP over a Unix socket in the data folder (mode 0600), for the command line. */
import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { messageOf, WeirError } from "../core/errors.ts";
import { STREAMS } from "../core/ports.ts";
import { type ApiHandlers, PLUGIN_ACTIONS, type PluginAction } from "./types.ts";

/** A Unix socket's path has room for 108 bytes, with a final NUL (unix(7)). */
const MOST_PATH_BYTES = 107;
const PLUGIN = /^\/api\/v1\/plugins\/([a-z0-9][a-z0-9_-]{0,63})(?:\/([a-z]{1,16}))?$/;

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
      throw new Error(`${this.#path}: too long for a socket (${MOST_PATH_BYTES} bytes)`);
    }
    rmSync(this.#path, { force: true });
    const server = createServer({ maxHeaderSize: 8192, requestTimeout: 10_000 }, (request, response) => {
      this.#answer(request, response).catch((thrown: unknown) => {
        if (!response.headersSent) send(response, 500, { error: messageOf(thrown) });
        else response.destroy();
      });
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
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    rmSync(this.#path, { force: true });
  }

  async #plugin(
    method: string | undefined,
    name: string,
    action: string | undefined,
    response: ServerResponse,
  ): Promise<void> {
    if (method === "GET" && action === undefined) {
      const detail = this.#handlers.plugin(name);
      return detail === undefined
        ? send(response, 404, { error: `${name}: no such plugin`, code: "plugin.refused" })
        : send(response, 200, detail);
    }
    if (method !== "POST" || !isAction(action)) return send(response, 404, { error: "no such path" });
    try {
      await this.#handlers.pluginAction(name, action);
      send(response, 200, this.#handlers.plugin(name) ?? null);
    } catch (thrown) {
      if (!(thrown instanceof WeirError)) throw thrown;
      send(response, 409, { error: thrown.message, code: thrown.code });
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // No request has a body that matters: what comes is thrown away, and the time limit bounds it.
    request.resume();
    const handlers = this.#handlers;
    const [, plugin, action] = PLUGIN.exec(request.url ?? "") ?? [];
    if (plugin !== undefined) return await this.#plugin(request.method, plugin, action, response);
    const [path, query] = (request.url ?? "").split("?");
    if (request.method === "POST" && path === "/api/v1/outbox/purge") {
      const asked = new URLSearchParams(query);
      const stream = STREAMS.find((one) => one === asked.get("stream"));
      const olderThanMs = Number(asked.get("olderThanMs"));
      if (!(olderThanMs >= 0) || (stream === undefined && asked.has("stream")))
        return send(response, 400, { error: "not a purge", code: "cli.usage" });
      const uplink = asked.get("uplink") ?? undefined;
      return send(response, 200, await handlers.purge({ uplink, stream, olderThanMs }));
    }
    if (request.method !== "GET") return send(response, 405, { error: "only GET is served here" });
    switch (request.url) {
      case "/api/v1/status":
        return send(response, 200, handlers.status());
      case "/api/v1/ledger":
        return send(response, 200, await handlers.ledger());
      case "/api/v1/plugins":
        return send(response, 200, handlers.plugins());
      case "/api/v1/outbox":
        return send(response, 200, await handlers.outbox());
      case "/api/v1/probes":
        return send(response, 200, handlers.probes());
      case "/api/v1/rejected":
        return send(response, 200, handlers.rejected());
      default:
        return send(response, 404, { error: "no such path" });
    }
  }
}

const isAction = (text: string | undefined): text is PluginAction =>
  PLUGIN_ACTIONS.some((action) => action === text);

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}
