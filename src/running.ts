/** What of the agent runs now: `main.ts` and `specs.ts` write it where something starts or ends, `answers.ts` reads it. */
import { existsSync } from "node:fs";
import type { HttpServer } from "./api/http.ts";
import type { LoadedConfig } from "./config/load.ts";
import type { Config } from "./config/schema.ts";
import { redactor } from "./config/secrets.ts";
import { GatewayClock } from "./core/clock.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import type { Frame } from "./core/frame.ts";
import { Ledger } from "./core/ledger.ts";
import type { LocalBroker, MessageDecoder, Outgoing, Route, Uplink } from "./core/ports.ts";
import type { Neighbour } from "./neighbour.ts";
import type { WorkerOutbox } from "./outbox/outbox.ts";
import { EarlyIntake } from "./pipeline/early-intake.ts";
import type { Effects } from "./pipeline/effects.ts";
import type { Forward } from "./pipeline/forward.ts";
import type { Ingest } from "./pipeline/ingest.ts";
import { correctTimes } from "./pipeline/known-time.ts";
import { RejectedLog } from "./pipeline/rejected.ts";
import type { Kept } from "./plugins/kept.ts";
import type { PluginManager } from "./plugins/manager.ts";
import type { EmbeddedBroker } from "./sources/broker.ts";
import { Introductions } from "./sources/introductions.ts";
import type { KernelSource } from "./sources/kernel.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";
import { PRESENCE, PRESENCE_RULES, Presence } from "./sources/presence.ts";
import { RuleTable } from "./sources/rule-table.ts";
import { RuleDecoder } from "./sources/rules.ts";
import { Supervisor } from "./supervisor.ts";
import { AgentLog, type LogOptions } from "./telemetry/log.ts";
import { type StatusFacts, statusMessage } from "./telemetry/status.ts";
import { Vitals } from "./telemetry/vitals.ts";
import type { UplinkOptions } from "./uplink/options.ts";
import { fillTopic } from "./uplink/topics.ts";

/** An uplink with its loop. */
export interface RunningUplink {
  readonly uplink: Uplink;
  readonly forward: Forward;
}

/** The state of one agent. What is undefined does not run, or not yet. */
export class Running {
  readonly version: string;
  readonly startedMs: number = Date.now();
  readonly log: AgentLog;
  readonly ledger: Ledger = new Ledger();
  readonly rejected: RejectedLog = new RejectedLog();
  readonly vitals: Vitals = new Vitals();
  /** what devices say before the loop runs */
  readonly early: EarlyIntake = new EarlyIntake(this.ledger);
  readonly presence: Presence = new Presence(
    this.early,
    {
      says: () => this.#saysRule,
      tells: (rule) => this.#rules.rules[rule]?.decoder === "availability",
      staleAfterMs: (rule) => this.#rules.rules[rule]?.staleAfter,
    },
    this.ledger.stage("source", PRESENCE, "messages"),
  );
  readonly introductions: Introductions = new Introductions(
    () => this.#rules.rules,
    async (news) => await this.outbox?.learn(news),
    (problem) => this.write("warn", problem),
  );
  readonly clock: GatewayClock = new GatewayClock({
    wallUs: () => Date.now() * 1000,
    monotonicUs: () => performance.now() * 1000,
    // systemd-timesyncd's word; chrony and others set the clock, which is seen as a jump.
    synchronised: () => existsSync("/run/systemd/timesync/synchronized"),
  });
  /** aborted when the agent ends */
  readonly controller: AbortController = new AbortController();
  readonly parts: Supervisor;
  readonly uplinks: Map<string, RunningUplink> = new Map();
  /** sources at other brokers */
  readonly external: Map<string, MqttSource> = new Map();
  readonly reloads: { accepted: number; refused: number; lastGood: boolean } = {
    accepted: 0,
    refused: 0,
    lastGood: true,
  };
  /** the outbox's latest epochs: a consumer that was away longer reads gaps */
  epochs: StatusFacts["epochs"] = [];
  outbox: WorkerOutbox | undefined;
  plugins: PluginManager | undefined;
  /** what is kept of plugins that are gone, too */
  kept: Kept | undefined;
  broker: EmbeddedBroker | undefined;
  /** another broker in its place */
  neighbour: Neighbour | undefined;
  kernel: KernelSource | undefined;
  http: HttpServer | undefined;
  ingest: Ingest | undefined;
  effects: Effects | undefined;
  /** how often the data folder was taken again, and how often before the socket in it was made */
  folderRenewals = 0;
  socketRenewals = 0;
  /** why the database was found to be a copy */
  copied: string | undefined;
  readonly #localListeners = new Set<() => void>();
  readonly #rules = new RuleTable();
  #decoder = new RuleDecoder([]);
  #loaded: LoadedConfig;
  /** the place of the rule of what {@link Presence} says */
  #saysRule = 0;

  constructor(loaded: LoadedConfig, version: string, log: LogOptions) {
    this.#loaded = loaded;
    this.version = version;
    this.log = new AgentLog(log);
    this.log.hide(redactor(loaded.secrets));
    this.parts = new Supervisor(this.write);
  }

  readonly write = (level: "info" | "warn" | "error", message: string): void =>
    this.log.logger[level](message);

  /** A device has sent something by a rule. */
  readonly met = (source: string, route: Route): void => this.introductions.met(source, route);

  /** Takes rows that are no samples, but newer than what is known. */
  readonly refresh = (frame: Frame): void => {
    correctTimes(frame, this.clock);
    this.outbox?.refresh(frame).catch((thrown: unknown) => this.write("warn", messageOf(thrown)));
  };

  /** Decodes by the rules of now. */
  readonly decoder: MessageDecoder = { decode: (message, into) => this.#decoder.decode(message, into) };

  get loaded(): LoadedConfig {
    return this.#loaded;
  }

  /** From here on this configuration is in force. */
  set loaded(next: LoadedConfig) {
    this.#loaded = next;
    this.log.hide(redactor(next.secrets));
  }

  get config(): Config {
    return this.#loaded.config;
  }

  /** Gives every list of rules its place, and the decoder the list of all. */
  placeRules(): ReadonlyMap<string, number> {
    const { devices, mqtt } = this.config.sources;
    const lists = Object.entries(mqtt).map(([key, { rules }]) => [`mqtt/${key}`, rules] as const);
    const before = this.#rules.rules;
    const places = this.#rules.place(new Map([["devices", devices], ...lists, ["presence", PRESENCE_RULES]]));
    this.#saysRule = places.get("presence") ?? 0;
    if (before.length !== this.#rules.rules.length)
      this.#decoder = new RuleDecoder(this.#rules.rules, (news) => this.introductions.learn(news));
    this.introductions.forget();
    return places;
  }

  /** Resolves when what was sealed so far is committed and settled. */
  async settled(): Promise<void> {
    await this.ingest?.exclusively(async () => {});
  }

  /** To local subscribers, through whichever broker there is. */
  readonly local: LocalBroker = this.#localBroker();

  #localBroker(): LocalBroker {
    const run = this;
    return {
      get connected() {
        return run.broker !== undefined || run.neighbour?.connected === true;
      },
      onChange: (listener) => {
        this.#localListeners.add(listener);
        return () => this.#localListeners.delete(listener);
      },
      publish: async (message) => {
        const broker = this.broker ?? this.neighbour;
        if (broker === undefined)
          throw new WeirError("uplink.unavailable", "the embedded broker is not running");
        await broker.publish(message);
      },
    };
  }

  /** The local broker has come, gone or changed. */
  readonly localChanged = (): void => {
    for (const listener of this.#localListeners) listener();
  };

  /** What an uplink's status topic says. */
  statusMessage({ topics }: UplinkOptions, online: boolean): Outgoing {
    const gateway = this.config.gateway.name;
    const facts = {
      gateway,
      version: this.version,
      epoch: this.outbox?.epoch ?? "",
      since: this.startedMs,
      uplinks: Object.keys(this.config.uplinks),
      epochs: this.epochs,
    };
    return statusMessage(fillTopic(topics.status, { gateway }), facts, online);
  }
}
