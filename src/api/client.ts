/** How the command line asks a running agent. */
import { ERRORS, type ErrorCode, errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { request } from "./node-http.ts";
import type {
  AgentStatus,
  LedgerReport,
  OutboxReport,
  PluginAction,
  PluginDetail,
  PluginStatus,
  ProbeStatus,
  PurgeRequest,
  Readiness,
  ReloadReport,
  RemovedPlugin,
  VitalsReport,
} from "./types.ts";

/** Answers larger than this are refused: 16 MiB. */
const MOST_BYTES = 16 * 1024 * 1024;
const TIMEOUT_MS = 10_000;
/** Plugins may be vetted and started meanwhile. */
const RELOAD_MS = 60_000;

/** Asks the agent whose socket is at `path`. Every call throws `cli.agent-unreachable` when none answers. */
export class ApiClient {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  status(): Promise<AgentStatus> {
    return this.#get("/api/v1/status") as Promise<AgentStatus>;
  }
  ledger(): Promise<LedgerReport> {
    return this.#get("/api/v1/ledger") as Promise<LedgerReport>;
  }
  plugins(): Promise<readonly PluginStatus[]> {
    return this.#get("/api/v1/plugins") as Promise<readonly PluginStatus[]>;
  }
  plugin(name: string): Promise<PluginDetail> {
    return this.#get(`/api/v1/plugins/${encodeURIComponent(name)}`) as Promise<PluginDetail>;
  }
  /** Resolves when it has taken effect. */
  pluginAction(name: string, action: PluginAction): Promise<PluginDetail> {
    return this.#get(
      `/api/v1/plugins/${encodeURIComponent(name)}/${action}`,
      "POST",
    ) as Promise<PluginDetail>;
  }
  outbox(): Promise<OutboxReport> {
    return this.#get("/api/v1/outbox") as Promise<OutboxReport>;
  }
  /** Resolves to the samples that were dropped. */
  purge({ uplink, stream, olderThanMs }: PurgeRequest): Promise<number> {
    const query = new URLSearchParams({ olderThanMs: String(olderThanMs) });
    if (uplink !== undefined) query.set("uplink", uplink);
    if (stream !== undefined) query.set("stream", stream);
    return this.#get(`/api/v1/outbox/purge?${query}`, "POST") as Promise<number>;
  }
  removedPlugins(): Promise<readonly RemovedPlugin[]> {
    return this.#get("/api/v1/removed-plugins") as Promise<readonly RemovedPlugin[]>;
  }
  /** Forgets what is kept of a plugin. */
  purgePlugin(name: string): Promise<RemovedPlugin> {
    return this.#get(`/api/v1/plugins/${encodeURIComponent(name)}/purge`, "POST") as Promise<RemovedPlugin>;
  }
  probes(): Promise<readonly ProbeStatus[]> {
    return this.#get("/api/v1/probes") as Promise<readonly ProbeStatus[]>;
  }
  readiness(): Promise<Readiness> {
    return this.#get("/readyz") as Promise<Readiness>;
  }
  /** A `.cpuprofile` of so many seconds, 1 to 60. */
  profile(seconds: number): Promise<object> {
    const timeoutMs = seconds * 1000 + TIMEOUT_MS;
    return this.#get(`/api/v1/profile?seconds=${seconds}`, "POST", timeoutMs) as Promise<object>;
  }
  heap(): Promise<object> {
    return this.#get("/api/v1/heap") as Promise<object>;
  }
  /** The latest lines of the agent's log, oldest first. */
  logLines(): Promise<readonly string[]> {
    return this.#get("/api/v1/log") as Promise<readonly string[]>;
  }
  vitals(): Promise<VitalsReport> {
    return this.#get("/api/v1/vitals") as Promise<VitalsReport>;
  }
  /** Has the configuration read again. Throws a WeirError `config.invalid` when it is refused. */
  reload(): Promise<ReloadReport> {
    return this.#get("/api/v1/reload", "POST", RELOAD_MS) as Promise<ReloadReport>;
  }
  /** Runs a probe on demand for so long; undefined ends it. */
  switchProbe(name: string, forMs: number | undefined): Promise<ProbeStatus> {
    const path = `/api/v1/probes/${encodeURIComponent(name)}`;
    return this.#get(
      forMs === undefined ? `${path}/off` : `${path}/on?forMs=${forMs}`,
      "POST",
    ) as Promise<ProbeStatus>;
  }
  /** The latest refused messages, oldest first. */
  rejected(): Promise<readonly Record<string, unknown>[]> {
    return this.#get("/api/v1/rejected") as Promise<readonly Record<string, unknown>[]>;
  }

  #get(url: string, method = "GET", timeoutMs = TIMEOUT_MS): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const unreachable = (cause: unknown): void =>
      reject(new WeirError("cli.agent-unreachable", whyUnreachable(this.#path, cause), { cause }));
    // A connection for each request: one that is kept can be closed by the agent while it is asked again.
    const options = { socketPath: this.#path, path: url, method, timeout: timeoutMs, agent: false };
    const call = request(options, (response) => {
      const parts: Buffer[] = [];
      let size = 0;
      response.on("data", (part: Buffer) => {
        size += part.byteLength;
        if (size > MOST_BYTES) call.destroy(new Error("answer too large"));
        else parts.push(part);
      });
      response.on("error", unreachable);
      response.on("end", () => {
        const text = Buffer.concat(parts).toString("utf8");
        // Not ready is an answer, too.
        if (response.statusCode !== 200 && !(response.statusCode === 503 && url === "/readyz"))
          reject(refusal(response.statusCode, text));
        else
          try {
            resolve(JSON.parse(text));
          } catch (thrown) {
            unreachable(thrown);
          }
      });
    });
    call.on("timeout", () => call.destroy(new Error("no answer in time")));
    call.on("error", unreachable);
    call.end();
    return promise;
  }
}

function whyUnreachable(path: string, cause: unknown): string {
  const errno = errnoOf(cause);
  if (errno === "EACCES" || errno === "EPERM") return `${path}: this user may not ask the agent`;
  const known = errno === "ENOENT" || errno === "ECONNREFUSED";
  return `no agent answers on ${path}${known ? "" : `: ${messageOf(cause)}`}`;
}

const isCode = (code: unknown): code is ErrorCode => typeof code === "string" && Object.hasOwn(ERRORS, code);

/** The agent's own error where it sent one. */
function refusal(status: number | undefined, text: string): Error {
  try {
    const { error, code }: { error?: unknown; code?: unknown } = JSON.parse(text);
    if (typeof error === "string" && isCode(code)) return new WeirError(code, error);
  } catch {
    // Not the agent's form: shown as it is.
  }
  if (status === 404)
    return new Error("the agent does not know this: it is of another version than this command; restart it");
  return new Error(`the agent answered ${status}: ${text.slice(0, 200)}`);
}
