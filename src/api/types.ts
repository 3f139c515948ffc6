/** What a running agent answers on its socket. The command line and the server share these types. */
import type { LedgerLine } from "../core/ledger.ts";
import type { OutboxCount, Stream } from "../core/ports.ts";

/** One capability of the agent: a source, an uplink, a layer. */
export interface PartStatus {
  readonly name: string;
  /** `on`, `off` (not wanted), `unavailable` (can't be had here) or `failed` */
  readonly state: "on" | "off" | "unavailable" | "failed";
  /** why it is not on */
  readonly reason: string | undefined;
  /** what a person can do about it */
  readonly remedy: string | undefined;
}

/** `GET /api/v1/status` */
export interface AgentStatus {
  readonly version: string;
  readonly gateway: string;
  readonly epoch: string;
  readonly pid: number;
  /** seconds since the start */
  readonly uptime: number;
  readonly dataDir: string;
  /** host and port of the embedded broker, when it runs */
  readonly broker: string | undefined;
  /** host and port of the HTTP server, when it runs */
  readonly http: string | undefined;
  /** what to subscribe to there for everything that Weir sends */
  readonly topics: readonly string[];
  readonly parts: readonly PartStatus[];
}

/** One probe, as `weir probe ls` shows it. */
export interface ProbeStatus extends PartStatus {
  /** what it measures */
  readonly about: string;
  /** what is read in place of its programs, and `reason` says why; undefined while they run, or when nothing can be */
  readonly fallback: string | undefined;
  /** kernel memory of its maps that is mapped here, in bytes; undefined while it is not loaded */
  readonly memoryBytes: number | undefined;
  /** what its programs took in the latest second that was measured; undefined where the kernel doesn't count it for this user */
  readonly cost: { readonly nsPerRun: number; readonly runsPerSecond: number } | undefined;
  /** it runs only when asked for, until `untilMs` (Unix epoch) */
  readonly onDemand: boolean;
  readonly untilMs: number | undefined;
}

/** One plugin, as `weir plugin ls` shows it. */
export interface PluginStatus {
  readonly name: string;
  readonly version: string;
  readonly state: string;
  readonly reason: string | undefined;
  readonly hash: string;
  readonly exports: readonly string[];
  readonly bind: string;
  readonly failures: number;
  readonly restarts: number;
  /** threads that it runs on, its devices divided among them */
  readonly lanes: number;
  /** time that it had a call to answer, in milliseconds, since the agent's start */
  readonly busyMs: number;
  /** bytes that it keeps */
  readonly stateBytes: number;
  /** its WebAssembly memories and the JavaScript heaps of its threads, in bytes, as of its latest calls */
  readonly wasmBytes: number;
  readonly heapBytes: number;
  /** ids of the versions that are kept, newest first */
  readonly versions: readonly string[];
  /** it was rolled back: the dropped version does not run */
  readonly pinned: boolean;
  /** it is on, but not as the folder and weir.yaml have it: `reason` says why */
  readonly behind: boolean;
}

/** `GET /api/v1/plugins/<name>` */
export interface PluginDetail extends PluginStatus {
  readonly order: number;
  /** what its manifest asks for, and what it has been granted: `state`, `alarm`, `publish <pattern>` */
  readonly asks: readonly string[];
  readonly grants: readonly string[];
  readonly limits: Readonly<Record<string, number>> | undefined;
  /** the walls around the plugin host: `on`, `off`, `partial: …` or `unavailable: …` */
  readonly layers: Readonly<Record<string, string>> | undefined;
  /** the latest lines that it logged, or that were logged about it, oldest first */
  readonly logs: readonly { readonly ts: number; readonly level: string; readonly message: string }[];
}

/** What is kept of a plugin that is not there any more. */
export interface RemovedPlugin {
  readonly name: string;
  readonly state: "removed";
  readonly stateEntries: number;
  readonly stateBytes: number;
  /** ids of the versions that are kept, newest first, and the bytes of those that no other plugin has */
  readonly versions: readonly string[];
  readonly versionBytes: number;
}

/** What can be done to a plugin: `POST /api/v1/plugins/<name>/<action>`. */
export const PLUGIN_ACTIONS = ["enable", "disable", "rollback"] as const;
/** One of {@link PLUGIN_ACTIONS}. */
export type PluginAction = (typeof PLUGIN_ACTIONS)[number];

/** `GET /api/v1/ledger` */
export interface LedgerReport {
  readonly epoch: string;
  readonly lines: readonly LedgerLine[];
}

/** `GET /api/v1/outbox` */
export interface OutboxReport {
  readonly fileBytes: number;
  /** bytes of the file that hold something */
  readonly usedBytes: number;
  /** full under `pause`: nothing is taken in */
  readonly full: boolean;
  /** where a damaged database was moved at this start */
  readonly quarantined: string | undefined;
  readonly counts: readonly OutboxCount[];
  /** when the oldest chunk that each uplink's stream holds was stored, in ms since the Unix epoch */
  readonly oldest: readonly {
    readonly uplink: string;
    readonly stream: Stream;
    readonly createdMs: number;
  }[];
  readonly limitBytes: number;
}

/** `POST /api/v1/outbox/purge?uplink=&stream=&olderThanMs=` */
export interface PurgeRequest {
  readonly uplink: string | undefined;
  readonly stream: Stream | undefined;
  readonly olderThanMs: number;
}

/** `POST /api/v1/reload` */
export interface ReloadReport {
  /** sections of the configuration that differ from before */
  readonly sections: readonly string[];
  /** parts that were stopped, started or both */
  readonly restarted: readonly string[];
  /** what differs and takes effect at the next start */
  readonly atNextStart: readonly string[];
}

/** `GET /readyz` */
export interface Readiness {
  /** it takes in and can store */
  readonly ready: boolean;
  /** why not, a sentence each, with what to do */
  readonly reasons: readonly string[];
  /** what is missing and keeps it from nothing, such as an uplink that can't be reached: batches wait */
  readonly notes: readonly string[];
}

/** A histogram, its counts by bound (the last: above all of them), for differences between two readings. */
export interface LatencyCounts {
  readonly bounds: readonly number[];
  readonly counts: readonly number[];
}

/** `GET /api/v1/vitals`: what `weir top` draws from, beside the listings. */
export interface VitalsReport {
  /** seconds, monotonic: for rates between two readings */
  readonly at: number;
  /** the main loop's largest delay in the latest 10 s, in seconds */
  readonly loopLag: number;
  readonly loopBusy: number;
  readonly openFds: number;
  readonly processes: readonly {
    readonly name: string;
    readonly pid: number;
    readonly pssBytes: number;
    readonly cpuSeconds: number;
  }[];
  readonly latencies: Readonly<Record<string, LatencyCounts>>;
}

/** Answers by path; the server knows no more of the agent. */
export interface ApiHandlers {
  status(): AgentStatus;
  ledger(): Promise<LedgerReport>;
  plugins(): readonly PluginStatus[];
  /** what is kept of plugins that are not there any more */
  removedPlugins(): Promise<readonly RemovedPlugin[]>;
  /** Forgets what is kept of a plugin; resolves to what that was, throws a WeirError when it can't be done. */
  purgePlugin(name: string): Promise<RemovedPlugin>;
  /** undefined for a name that isn't known */
  plugin(name: string): PluginDetail | undefined;
  /** Resolves when it has taken effect; throws a WeirError when it can't be done. */
  pluginAction(name: string, action: PluginAction): Promise<void>;
  outbox(): Promise<OutboxReport>;
  /** Resolves to the samples that were dropped. */
  purge(what: PurgeRequest): Promise<number>;
  probes(): readonly ProbeStatus[];
  /** Runs a probe on demand for so long, or ends it with undefined; throws a WeirError when it can't be. */
  switchProbe(name: string, forMs: number | undefined): void;
  /** Reads the configuration again; throws a WeirError `config.invalid` when it is refused. */
  reload(): Promise<ReloadReport>;
  /** the page in Prometheus' text format */
  metrics(): Promise<string>;
  readiness(): Promise<Readiness>;
  vitals(): Promise<VitalsReport>;
  /** a CPU profile of the main thread, `.cpuprofile` */
  profile(seconds: number): Promise<object>;
  heap(): object;
  /** the latest lines of the log, oldest first, without secrets */
  logLines(): readonly string[];
  /** the latest refused messages, oldest first */
  rejected(): readonly unknown[];
}
