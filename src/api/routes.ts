/** What the agent answers, whoever asks: the routes of docs/api.md. Readers get GET; the socket, whose mode is 0600, all of it. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { messageOf, WeirError } from "../core/errors.ts";
import { STREAMS } from "../core/ports.ts";
import { type ApiHandlers, PLUGIN_ACTIONS, type PluginAction } from "./types.ts";

const PLUGIN = /^\/api\/v1\/plugins\/([a-z0-9][a-z0-9_-]{0,63})(?:\/([a-z]{1,16}))?$/;
const PROBE = /^\/api\/v1\/probes\/([a-z]{1,32})\/(on|off)$/;

/** For whoever looks at it in a browser first. */
const NO_PATH =
  "no such path: there are /metrics, /healthz, /readyz, /api/v1/status and more, see docs/api.md";

/** Answers one request. `readOnly`: whoever asks may be any local user. Never throws. */
export async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  handlers: ApiHandlers,
  readOnly: boolean,
): Promise<void> {
  // No request has a body that matters: what comes is thrown away, and the time limit bounds it.
  request.resume();
  try {
    const [path = "", query] = (request.url ?? "").split("?");
    const { method } = request;
    if (method === "GET" || method === "HEAD") return await get(path, response, handlers, readOnly);
    if (readOnly || method !== "POST")
      return send(response, 405, { error: "only GET is served here", code: "cli.usage" });
    return await post(path, new URLSearchParams(query), response, handlers);
  } catch (thrown) {
    if (response.headersSent) response.destroy();
    else if (thrown instanceof WeirError) send(response, 409, { error: thrown.message, code: thrown.code });
    else send(response, 500, { error: messageOf(thrown) });
  }
}

async function get(
  path: string,
  response: ServerResponse,
  handlers: ApiHandlers,
  readOnly: boolean,
): Promise<void> {
  switch (path) {
    case "/metrics":
      return sendText(response, 200, await handlers.metrics(), "text/plain; version=0.0.4; charset=utf-8");
    case "/healthz":
      return send(response, 200, { status: "ok" });
    case "/readyz": {
      const ready = await handlers.readiness();
      return send(response, ready.ready ? 200 : 503, ready);
    }
    case "/api/v1/status":
      return send(response, 200, handlers.status());
    case "/api/v1/ledger":
      return send(response, 200, await handlers.ledger());
    case "/api/v1/plugins":
      return send(response, 200, handlers.plugins());
    case "/api/v1/removed-plugins":
      return send(response, 200, await handlers.removedPlugins());
    case "/api/v1/outbox":
      return send(response, 200, await handlers.outbox());
    case "/api/v1/probes":
      return send(response, 200, handlers.probes());
    case "/api/v1/vitals":
      return send(response, 200, await handlers.vitals());
    default:
  }
  const [, plugin, action] = PLUGIN.exec(path) ?? [];
  if (plugin !== undefined && action === undefined) {
    const detail = handlers.plugin(plugin);
    if (detail === undefined)
      return send(response, 404, { error: `${plugin}: no such plugin`, code: "plugin.refused" });
    // A plugin may log what devices said.
    return send(response, 200, readOnly ? { ...detail, logs: [] } : detail);
  }
  if (!readOnly && path === "/api/v1/heap") return send(response, 200, handlers.heap());
  if (!readOnly && path === "/api/v1/log") return send(response, 200, handlers.logLines());
  // Payloads of devices: for whoever may read the data folder.
  if (path === "/api/v1/rejected" && !readOnly) return send(response, 200, handlers.rejected());
  return send(response, 404, { error: NO_PATH });
}

async function post(
  path: string,
  query: URLSearchParams,
  response: ServerResponse,
  handlers: ApiHandlers,
): Promise<void> {
  if (path === "/api/v1/outbox/purge") {
    const stream = STREAMS.find((one) => one === query.get("stream"));
    // Without it nothing goes: everything is as old as nothing.
    const olderThanMs = Number(query.get("olderThanMs") || "none");
    if (!(olderThanMs >= 0) || (stream === undefined && query.has("stream")))
      return send(response, 400, { error: "not a purge", code: "cli.usage" });
    const uplink = query.get("uplink") ?? undefined;
    return send(response, 200, await handlers.purge({ uplink, stream, olderThanMs }));
  }
  if (path === "/api/v1/profile") {
    const seconds = Number(query.get("seconds") ?? "10");
    if (!(seconds >= 1 && seconds <= 60))
      return send(response, 400, { error: "seconds: 1 to 60", code: "cli.usage" });
    return send(response, 200, await handlers.profile(seconds));
  }
  if (path === "/api/v1/reload") return send(response, 200, await handlers.reload());
  const [, probe, wanted] = PROBE.exec(path) ?? [];
  if (probe !== undefined) {
    handlers.switchProbe(probe, wanted === "on" ? Number(query.get("forMs")) : undefined);
    return send(response, 200, handlers.probes().find(({ name }) => name === probe) ?? null);
  }
  const [, plugin, action] = PLUGIN.exec(path) ?? [];
  if (plugin !== undefined && action === "purge")
    return send(response, 200, await handlers.purgePlugin(plugin));
  if (plugin !== undefined && isAction(action)) {
    await handlers.pluginAction(plugin, action);
    return send(response, 200, handlers.plugin(plugin) ?? null);
  }
  return send(response, 404, { error: NO_PATH });
}

const isAction = (text: string | undefined): text is PluginAction =>
  PLUGIN_ACTIONS.some((action) => action === text);

/** Answers with JSON. */
export function send(response: ServerResponse, status: number, body: unknown): void {
  sendText(response, status, JSON.stringify(body), "application/json");
}

function sendText(response: ServerResponse, status: number, text: string, type: string): void {
  const headers = { "content-type": type, "cache-control": "no-store", "x-content-type-options": "nosniff" };
  response.writeHead(status, headers);
  response.end(text);
}
