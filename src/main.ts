/** The agent, put together. Everything here is wiring: what things do is in their folders. */
import { existsSync } from "node:fs";
import { extname } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { keyedSliceHash } from "./addon/hash.ts";
import { ServiceManager } from "./addon/service.ts";
import { ApiClient } from "./api/client.ts";
import { HttpServer } from "./api/http.ts";
import { ApiServer } from "./api/server.ts";
import type {
  AgentStatus,
  ApiHandlers,
  LedgerReport,
  OutboxReport,
  PluginAction,
  PluginDetail,
  PluginStatus,
  ProbeStatus,
  PurgeRequest,
  Readiness,
  ReloadReport,
} from "./api/types.ts";
import { keepLastGood } from "./config/last-good.ts";
import type { LoadedConfig } from "./config/load.ts";
import type { Config } from "./config/schema.ts";
import { redactor } from "./config/secrets.ts";
import { GatewayClock } from "./core/clock.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import type { Frame } from "./core/frame.ts";
import { Ledger } from "./core/ledger.ts";
import type { DeviceMessage, Gap, MessageDecoder, Outgoing, Route, Uplink } from "./core/ports.ts";
import { metricsText, vitalsReport } from "./measure.ts";
import { findNeighbour, NEIGHBOUR, type Neighbour } from "./neighbour.ts";
import { dataPaths, type HeldDataFolder, holdDataFolder } from "./outbox/data-folder.ts";
import { WorkerOutbox } from "./outbox/outbox.ts";
import {
  gapMessage,
  lockDownStatus,
  missingProbes,
  outboxLine,
  outboxPlan,
  PROBE_TEXTS,
  pluginStatus,
  sourceStatus,
  uplinkStatus,
} from "./parts.ts";
import { EarlyIntake } from "./pipeline/early-intake.ts";
import { Effects } from "./pipeline/effects.ts";
import { Forward } from "./pipeline/forward.ts";
import { Ingest } from "./pipeline/ingest.ts";
import { correctTimes } from "./pipeline/known-time.ts";
import { RejectedLog } from "./pipeline/rejected.ts";
import { PluginManager } from "./plugins/manager.ts";
import { Versions } from "./plugins/versions.ts";
import { componentWalls } from "./plugins/walls.ts";
import { fixedChanges, sectionsChanged } from "./reload.ts";
import { EmbeddedBroker } from "./sources/broker.ts";
import { Introductions } from "./sources/introductions.ts";
import { KernelSource } from "./sources/kernel.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";
import { mqttSource } from "./sources/mqtt-sources.ts";
import { type DeviceRule, isLoopback, PRESENCE_RULES } from "./sources/options.ts";
import { PRESENCE, Presence } from "./sources/presence.ts";
import { RuleTable } from "./sources/rule-table.ts";
import { RuleDecoder } from "./sources/rules.ts";
import { SystemSource } from "./sources/system.ts";
import { type Part, type PartSpec, Supervisor } from "./supervisor.ts";
import { AgentLog, type Logger, type LogOptions } from "./telemetry/log.ts";
import { cpuProfile, heapReport } from "./telemetry/profile.ts";
import { type StatusFacts, statusMessage } from "./telemetry/status.ts";
import { Vitals } from "./telemetry/vitals.ts";
import { LocalUplink } from "./uplink/local.ts";
import type { UplinkOptions } from "./uplink/options.ts";
import { fillTopic } from "./uplink/topics.ts";

/** At a stop: time to commit what was taken in, and then to send what is due. All of it is to be over in ten seconds. */
const COMMIT_MS = 4_000;
const SEND_MS = 1_500;
/** The setting that keeps the last known time, in microseconds, and how often it is kept, in seconds. */
const KNOWN_TIME = "clock/known";
const KEEP_TIME_S = 60;

/** A running agent. */
export class Agent {
  #loaded: LoadedConfig;
  readonly #version: string;
  readonly #load: () => LoadedConfig;
  readonly #log: AgentLog;
  readonly #ledger = new Ledger();
  readonly #rejected = new RejectedLog();
  readonly #controller = new AbortController();
  readonly #startedMs = Date.now();
  readonly #vitals = new Vitals();
  readonly #service = new ServiceManager(process.env);
  readonly #rules = new RuleTable();
  readonly #early = new EarlyIntake(this.#ledger.stage("source", "devices", "messages"));
  readonly #presence = new Presence(
    this.#early,
    {
      says: () => this.#saysRule,
      tells: (rule) => this.#rules.rules[rule]?.decoder === "availability",
      staleAfterMs: (rule) => this.#rules.rules[rule]?.staleAfter,
    },
    this.#ledger.stage("source", PRESENCE, "messages"),
  );
  readonly #introductions = new Introductions(
    () => this.#rules.rules,
    async (news) => await this.#outbox?.learn(news),
    (problem) => this.#write("warn", problem),
  );
  readonly #clock = new GatewayClock({
    wallUs: () => Date.now() * 1000,
    monotonicUs: () => performance.now() * 1000,
    // systemd-timesyncd's word; chrony and others set the clock, which is seen as a jump.
    synchronised: () => existsSync("/run/systemd/timesync/synchronized"),
  });
  #clockTimer: NodeJS.Timeout | undefined;
  /** the place of the rule of what {@link Presence} says */
  #saysRule = 0;
  readonly #failed = Promise.withResolvers<WeirError>();
  readonly #parts: Supervisor;
  readonly #uplinks = new Map<string, Uplink>();
  readonly #external = new Map<string, MqttSource>();
  readonly #reloads = { accepted: 0, refused: 0, lastGood: true };
  #reloading: Promise<unknown> = Promise.resolve();
  #decoder: MessageDecoder = new RuleDecoder([]);
  #epochs: StatusFacts["epochs"] = [];
  #folder: HeldDataFolder | undefined;
  #outbox: WorkerOutbox | undefined;
  #plugins: PluginManager | undefined;
  #broker: EmbeddedBroker | undefined;
  /** another broker in its place */
  #neighbour: Neighbour | undefined;
  #kernel: KernelSource | undefined;
  #http: HttpServer | undefined;
  #ingest: Ingest | undefined;
  #effects: Effects | undefined;

  /** Does nothing yet: {@link start}. `load` reads the configuration again, for {@link reload}; it throws when that is not valid. */
  constructor(loaded: LoadedConfig, version: string, log: LogOptions, load: () => LoadedConfig) {
    this.#loaded = loaded;
    this.#version = version;
    this.#load = load;
    this.#log = new AgentLog(log);
    this.#log.hide(redactor(loaded.secrets));
    this.#parts = new Supervisor(this.#write);
  }

  /** the agent's own log */
  get log(): Logger {
    return this.#log.logger;
  }

  get #config(): Config {
    return this.#loaded.config;
  }

  /** Files whose change may change the configuration. */
  get configFiles(): readonly string[] {
    return this.#loaded.files;
  }

  /** Resolves when the agent can't go on; stop it then. */
  get failed(): Promise<WeirError> {
    return this.#failed.promise;
  }

  /**
   * Starts everything that can run here; what can't is in {@link status} with its reason and remedy, and is tried again.
   * @throws WeirError when nothing can run: the data folder is held or unusable, the database is damaged
   */
  async start(): Promise<void> {
    const { plugins, data } = this.#config;
    const folder = await holdOrExplain(data.dir);
    this.#folder = folder;
    this.#vitals.start();

    // Devices may connect from here on; what they send waits for the loop.
    const places = this.#placeRules();
    await this.#parts.apply(this.#brokerSpec(places));
    const outbox = new WorkerOutbox(
      new URL(`./worker${extname(import.meta.filename)}`, import.meta.url),
      outboxPlan(folder.paths, this.#config),
      (error) => this.#write("error", `${error.message}; it is started again`),
    );
    this.#outbox = outbox;
    const opened = outbox.start();
    const manager = new PluginManager({
      options: plugins,
      cacheDir: folder.paths.cache,
      versions: new Versions(folder.paths.store, {
        load: async (key) => {
          await opened;
          return await outbox.setting(key);
        },
        save: (key, value) => outbox.setSetting(key, value),
      }),
      exclusively: (action) => (this.#ingest === undefined ? action() : this.#ingest.exclusively(action)),
      loadState: async (plugin) => {
        await opened;
        return await outbox.state(plugin);
      },
      onLog: (plugin, level, message) => this.log[level](`plugin ${plugin}: ${message}`),
      hashSlices: keyedSliceHash(),
    });
    this.#plugins = manager;
    await Promise.all([opened, manager.start(this.#controller.signal)]);
    void outbox.ended.then((error) => {
      if (error !== undefined) this.#failed.resolve(error);
    });
    outbox.onEpoch(() => void this.#announceEpoch());
    await this.#startLoops(manager, outbox);
    const { quarantined } = await outbox.info();
    if (quarantined !== undefined)
      this.#write("error", `outbox: the database was damaged; it is now ${quarantined}`);
    await this.#learnEpochs(outbox);
    await this.#parts.apply(this.#specs(places));
    for (const { name, reason, remedy } of [
      ...missingProbes(this.probes()),
      ...lockDownStatus(this.#kernel?.lockedDown),
    ])
      this.#write("warn", `${name} off: ${reason}; ${remedy}`);
    const untold = this.#service.ready();
    if (untold !== undefined)
      this.#write("warn", `the service manager was not told that Weir is ready: ${untold}`);
  }

  /** Time goes on from the last that an earlier run has known, where the clock stands before it. */
  async #startClock(outbox: WorkerOutbox): Promise<void> {
    const kept = Number(await outbox.setting(KNOWN_TIME));
    this.#clock.start(kept > 0 ? kept : undefined);
    if (!this.#clock.valid) {
      const known = new Date(kept / 1000).toISOString();
      this.#write(
        "warn",
        `the clock stands before ${known}, the last known time: time goes on from there, flagged`,
      );
    }
    const keep = (): void => {
      void outbox.setSetting(KNOWN_TIME, String(this.#clock.nowUs)).catch(() => {});
    };
    keep();
    let looks = 0;
    this.#clockTimer = setInterval(() => {
      if (this.#clock.look()) this.#write("info", "the clock was set: samples have its time again");
      looks += 1;
      if (looks % KEEP_TIME_S === 0) keep();
    }, 1_000);
    this.#clockTimer.unref();
  }

  /** Devices that an earlier run has known: those that are gone may come back, the others may go. */
  async #remember(outbox: WorkerOutbox): Promise<void> {
    const { devices, mqtt } = this.#config.sources;
    const rulesOf = (source: string): readonly DeviceRule[] =>
      source.startsWith("mqtt/") ? (mqtt[source.slice("mqtt/".length)]?.rules ?? devices) : devices;
    for (const { device, source = "", rule, gone } of await outbox.remembered()) {
      const { staleAfter } = rulesOf(source).find(({ topic }) => topic === rule) ?? {};
      this.#presence.restore(device, gone, staleAfter);
    }
  }

  async #startLoops(manager: PluginManager, outbox: WorkerOutbox): Promise<void> {
    const effectsCount = this.#ledger.stage("effects", "publish", "messages");
    const publisher = () =>
      this.#config.broker.enabled
        ? { publish: (message: Outgoing): Promise<void> => this.#publish(message) }
        : undefined;
    const effects = new Effects(outbox, publisher, effectsCount, (message) => this.#write("warn", message));
    await this.#startClock(outbox);
    const ingest = new Ingest({
      decoder: { decode: (message, into) => this.#decoder.decode(message, into) },
      chain: manager.chain,
      outbox,
      ledger: this.#ledger,
      rejected: this.#rejected,
      clock: this.#clock,
      log: this.#write,
      onEffects: () => effects.run(),
      options: ingestOptions(this.#config),
    });
    this.#effects = effects;
    this.#ingest = ingest;
    ingest.start();
    await this.#remember(outbox);
    this.#early.handOver(ingest);
    this.#presence.start();
    this.#introductions.start();
    effects.run();
  }

  /**
   * Ends in order: takes in nothing more, commits what was taken in, sends what is due, says goodbye. Never throws.
   * @returns false when something that was not acknowledged had to be left: its senders will send it again
   */
  async stop(): Promise<boolean> {
    this.#service.stopping();
    await this.#reloading.catch(() => {});
    await this.#parts.stop((name) => name === "kernel" || name === "system");
    await this.#broker?.stop();
    await Promise.all([...this.#external.values()].map((source) => source.stop()));
    this.#presence.stop();
    this.#introductions.stop();
    clearInterval(this.#clockTimer);
    await this.#outbox?.setSetting(KNOWN_TIME, String(this.#clock.nowUs)).catch(() => {});
    const committed = (await this.#ingest?.stop(COMMIT_MS)) ?? true;
    await this.#parts.stop((name) => name.startsWith("source "));
    await this.#effects?.idle();
    await this.#parts.stop((name) => name.startsWith("uplink "));
    this.#controller.abort();
    await this.#plugins?.stop();
    await this.#outbox?.stop().catch((thrown: unknown) => this.#write("error", messageOf(thrown)));
    await this.#parts.stop();
    this.#vitals.stop();
    this.#folder?.release();
    this.#service.close();
    return committed;
  }

  // ------------------------------------------------------------------------------------------------ configuration

  /**
   * Reads the configuration again and makes what runs agree with it: only what changed restarts, nothing is lost. What is not
   * valid is refused as a whole, and everything stays as it is.
   * @throws WeirError `config.invalid`
   */
  reload(): Promise<ReloadReport> {
    const turn = this.#reloading.then(() => this.#reloadNow());
    this.#reloading = turn.catch(() => {});
    return turn;
  }

  async #reloadNow(): Promise<ReloadReport> {
    let next: LoadedConfig;
    try {
      next = this.#load();
      if (next.empty && !this.#loaded.empty)
        throw new WeirError("config.invalid", `${next.file}: has no byte, as after a write to a full disk`);
    } catch (thrown) {
      this.#reloads.refused += 1;
      this.#reloads.lastGood = false;
      this.#write("error", `the configuration is refused, what runs stays as it is: ${messageOf(thrown)}`);
      throw thrown;
    }
    const before = this.#config;
    const fixed = fixedChanges(before, next.config);
    for (const what of fixed) this.#write("warn", `${what} has changed: that takes effect at the next start`);
    this.#loaded = { ...next, config: { ...next.config, gateway: before.gateway, data: before.data } };
    this.#log.hide(redactor(next.secrets));
    const changed = await this.#apply(before);
    this.#reloads.accepted += 1;
    this.#reloads.lastGood = true;
    this.keepConfig();
    const sections = sectionsChanged(before, this.#config);
    const restarted = changed.length === 0 ? "nothing restarts" : `restarted: ${changed.join(", ")}`;
    if (sections.length > 0)
      this.#write("info", `${sections.join(", ")} of the configuration changed; ${restarted}`);
    return { sections, restarted: changed, atNextStart: fixed };
  }

  /** Keeps what has taken effect, for a start with broken files. */
  keepConfig(): void {
    try {
      keepLastGood(dataPaths(this.#config.data.dir).dir, this.#loaded);
    } catch (thrown) {
      this.#write(
        "warn",
        `the configuration could not be kept for a start with broken files: ${messageOf(thrown)}`,
      );
    }
  }

  /** Makes what runs agree with the configuration; gives what was restarted. */
  async #apply(before: Config): Promise<string[]> {
    const { plugins, pipeline } = this.#config;
    const folder = this.#folder;
    const outbox = this.#outbox;
    if (folder === undefined || outbox === undefined) return [];
    if (!isDeepStrictEqual(before.pipeline, pipeline)) this.#ingest?.retune(ingestOptions(this.#config));
    const changed: string[] = [];
    const parts = await this.#parts.apply(this.#specs(this.#placeRules()), async () => {
      const plan = outboxPlan(folder.paths, this.#config);
      if (isDeepStrictEqual(plan, outboxPlan(folder.paths, before))) return;
      await outbox.restart(plan);
      await this.#learnEpochs(outbox);
      changed.push("outbox");
    });
    if (!isDeepStrictEqual(before.plugins, plugins)) {
      await this.#plugins?.reconfigure(plugins);
      changed.push("plugins");
    }
    return [...changed, ...parts];
  }

  /** Gives every list of rules its place, and the decoder the list of all. */
  #placeRules(): ReadonlyMap<string, number> {
    const { devices, mqtt } = this.#config.sources;
    const lists = Object.entries(mqtt).map(([key, { rules }]) => [`mqtt/${key}`, rules] as const);
    const before = this.#rules.rules;
    const places = this.#rules.place(new Map([["devices", devices], ...lists, ["presence", PRESENCE_RULES]]));
    this.#saysRule = places.get("presence") ?? 0;
    if (before.length !== this.#rules.rules.length) this.#decoder = new RuleDecoder(this.#rules.rules);
    this.#introductions.forget();
    return places;
  }

  // -------------------------------------------------------------------------------------------------------- parts

  /** Every part that the configuration wants, in the order of their start. */
  #specs(places: ReadonlyMap<string, number>): PartSpec[] {
    return [
      ...this.#brokerSpec(places),
      ...Object.entries(this.#config.uplinks).flatMap(([name, options]) => this.#uplinkSpec(name, options)),
      ...this.#externalSpecs(places),
      ...this.#hostSpecs(),
      ...this.#serverSpecs(),
    ];
  }

  #brokerSpec(places: ReadonlyMap<string, number>): PartSpec[] {
    const { broker, sources } = this.#config;
    if (!broker.enabled) return [];
    const first = places.get("devices") ?? 0;
    const make = (): Part => {
      const count = this.#ledger.stage("source", "devices", "messages");
      const embedded = new EmbeddedBroker(broker, sources.devices, count, this.#write, first, this.#met);
      return {
        start: async () => {
          try {
            await embedded.start(this.#presence, this.#controller.signal);
            embedded.onDeviceGone((device) => this.#presence.gone(device));
            this.#broker = embedded;
          } catch (thrown) {
            const taken = thrown instanceof WeirError && thrown.code === "broker.port-in-use";
            this.#neighbour = taken ? await this.#findNeighbour(first) : undefined;
            if (this.#neighbour === undefined) throw thrown;
            const { source } = this.#neighbour;
            if (source !== undefined) this.#external.set(NEIGHBOUR, source);
          }
          this.#effects?.run();
        },
        stop: async () => {
          const neighbour = this.#neighbour;
          this.#neighbour = undefined;
          this.#external.delete(NEIGHBOUR);
          await neighbour?.stop(() => this.#settled());
          await embedded.stop();
          await this.#settled();
          await embedded.close();
          if (this.#broker === embedded) this.#broker = undefined;
        },
      };
    };
    return [{ name: "broker", key: JSON.stringify([broker, sources.devices, first]), make }];
  }

  /** The broker that has the embedded one's port, if it is on this machine and there is something to publish on it. */
  async #findNeighbour(firstRule: number): Promise<Neighbour | undefined> {
    const { broker, sources, uplinks, gateway } = this.#config;
    const uplink = Object.values(uplinks).find(({ url }) => url === "embedded");
    if (uplink === undefined || !isLoopback(broker.host)) return undefined;
    return await findNeighbour({
      host: broker.host,
      port: broker.port,
      rules: sources.devices,
      firstRule,
      uplink,
      status: (online) => this.#statusMessage(uplink, online),
      intake: this.#presence,
      signal: this.#controller.signal,
      gateway: gateway.name,
      templates: Object.values(uplinks).flatMap(({ topics }) => Object.values(topics)),
      decoder: { decode: (message: DeviceMessage, into) => this.#decoder.decode(message, into) },
      refresh: this.#refresh,
      met: this.#met,
      ledger: this.#ledger,
      log: this.#write,
    });
  }

  #uplinkSpec(name: string, options: UplinkOptions): PartSpec[] {
    const outbox = this.#outbox;
    const embedded = options.url === "embedded";
    const { broker, sources } = this.#config;
    if (outbox === undefined || (embedded && !broker.enabled)) return [];
    const make = async (): Promise<Part> => {
      const uplink = await this.#makeUplink(name, options);
      const { gateway } = this.#config;
      const forward = new Forward({
        uplink,
        outbox,
        ledger: this.#ledger,
        log: this.#write,
        gapMessage: (gap: Gap): Outgoing => gapMessage(options, gateway.name, gap),
        limits: options,
        memory: {
          load: () => outbox.setting(`used/${name}`),
          save: (text) => outbox.setSetting(`used/${name}`, text),
        },
        appAck:
          options.appAck === undefined
            ? undefined
            : { timeoutMs: options.appAck.timeout, batches: options.appAck.batches },
      });
      return {
        start: async () => {
          await uplink.start(this.#controller.signal);
          forward.start();
          this.#uplinks.set(name, uplink);
        },
        stop: async () => {
          await forward.stop(SEND_MS);
          await uplink.stop();
          this.#uplinks.delete(name);
        },
      };
    };
    // On the embedded broker it lives as long as that: a new one has none of its retained messages.
    const key = JSON.stringify([options, embedded ? [broker, sources.devices] : []]);
    return [{ name: `uplink ${name}`, key, make }];
  }

  #externalSpecs(places: ReadonlyMap<string, number>): PartSpec[] {
    const { sources, uplinks, gateway } = this.#config;
    const templates = Object.values(uplinks).flatMap(({ topics }) => Object.values(topics));
    return Object.entries(sources.mqtt).map(([key, options]) => {
      const first = places.get(`mqtt/${key}`) ?? 0;
      const make = (): Part => {
        const source = mqttSource(key, options, first, {
          gateway: gateway.name,
          templates,
          decoder: { decode: (message: DeviceMessage, into) => this.#decoder.decode(message, into) },
          refresh: this.#refresh,
          met: this.#met,
          ledger: this.#ledger,
          log: this.#write,
        });
        return {
          start: async () => {
            await source.start(this.#presence, this.#controller.signal);
            this.#external.set(key, source);
          },
          stop: async () => {
            await source.stop();
            await this.#settled();
            await source.close();
            this.#external.delete(key);
          },
        };
      };
      return { name: `source mqtt/${key}`, key: JSON.stringify([options, first, templates]), make };
    });
  }

  #hostSpecs(): PartSpec[] {
    const { kernel, system } = this.#config.sources;
    const signal = this.#controller.signal;
    const specs: PartSpec[] = [];
    if (kernel.enabled) {
      const make = (): Part => {
        const source = new KernelSource({ ...kernel, ledger: this.#ledger });
        this.#kernel = source;
        return {
          start: () => source.start(this.#early, signal),
          stop: async () => {
            await source.stop();
            this.#kernel = undefined;
          },
        };
      };
      specs.push({ name: "kernel", key: JSON.stringify(kernel), make });
    }
    if (system.enabled) {
      const make = (): Part => {
        const source = new SystemSource({ intervalMs: system.intervalMs }, (problem) =>
          this.#write("warn", problem),
        );
        return { start: () => source.start(this.#early, signal), stop: () => source.stop() };
      };
      specs.push({ name: "system", key: JSON.stringify(system), make });
    }
    return specs;
  }

  #serverSpecs(): PartSpec[] {
    const { http, data } = this.#config;
    const socket = dataPaths(data.dir).socket;
    const specs: PartSpec[] = [
      { name: "socket", key: socket, make: () => new ApiServer(socket, this.#handlers) },
    ];
    if (http.enabled) {
      const make = (): Part => {
        const server = new HttpServer(http, this.#handlers);
        this.#http = server;
        return server;
      };
      specs.push({ name: "http", key: JSON.stringify(http), make });
    }
    return specs;
  }

  /** Resolves when what was sealed so far is committed and settled. */
  async #settled(): Promise<void> {
    await this.#ingest?.exclusively(async () => {});
  }

  async #publish(message: Outgoing): Promise<void> {
    const broker = this.#broker ?? this.#neighbour;
    if (broker === undefined) throw new WeirError("uplink.unavailable", "the embedded broker is not running");
    await broker.publish(message);
  }

  async #makeUplink(name: string, options: UplinkOptions): Promise<Uplink> {
    const gateway = this.#config.gateway.name;
    const status = (online: boolean): Outgoing => this.#statusMessage(options, online);
    if (options.url === "embedded")
      return new LocalUplink(name, options, { publish: (message) => this.#publish(message) }, status);
    // Loaded only where it is used: mqtt.js takes 8 MB.
    const { MqttUplink } = await import("./uplink/mqtt.ts");
    return new MqttUplink(name, options, { gateway, status, log: this.#write });
  }

  #statusMessage({ topics }: UplinkOptions, online: boolean): Outgoing {
    const gateway = this.#config.gateway.name;
    const facts = {
      gateway,
      version: this.#version,
      epoch: this.#outbox?.epoch ?? "",
      since: this.#startedMs,
      uplinks: Object.keys(this.#config.uplinks),
      epochs: this.#epochs,
    };
    return statusMessage(fillTopic(topics.status, { gateway }), facts, online);
  }

  /** Only the latest: a consumer that was away longer reads gaps. */
  async #learnEpochs(outbox: WorkerOutbox): Promise<void> {
    this.#epochs = (await outbox.info()).epochs.slice(-8);
  }

  /** Consumers learn a new epoch from the status. */
  async #announceEpoch(): Promise<void> {
    const outbox = this.#outbox;
    if (outbox === undefined) return;
    try {
      await this.#learnEpochs(outbox);
      for (const [name, uplink] of this.#uplinks) {
        const options = this.#config.uplinks[name];
        if (options !== undefined && uplink.connected)
          await uplink.publish(this.#statusMessage(options, true));
      }
    } catch (thrown) {
      // A connection that is lost says it at its next start.
      this.#write("warn", `the status with the new epoch: ${messageOf(thrown)}`);
    }
  }

  // ------------------------------------------------------------------------------------------------------ answers

  readonly #handlers: ApiHandlers = {
    status: () => this.status(),
    ledger: () => this.ledger(),
    plugins: () => this.plugins(),
    plugin: (name) => this.plugin(name),
    pluginAction: (name, action) => this.pluginAction(name, action),
    outbox: () => this.outbox(),
    purge: (what) => this.purge(what),
    probes: () => this.probes(),
    switchProbe: (name, forMs) => this.switchProbe(name, forMs),
    rejected: () => this.#rejected.list(),
    reload: () => this.reload(),
    metrics: () => this.metrics(),
    readiness: () => this.readiness(),
    profile: (seconds) => cpuProfile(seconds),
    heap: () => heapReport(),
    logLines: () => this.#log.recent,
    vitals: async () => vitalsReport(this.#ledger, this.#vitals, this.#pids()),
  };

  status(): AgentStatus {
    const local = Object.values(this.#config.uplinks).find(({ url }) => url === "embedded");
    const gateway = this.#config.gateway.name;
    return {
      version: this.#version,
      gateway,
      epoch: this.#outbox?.epoch ?? "",
      pid: process.pid,
      uptime: (Date.now() - this.#startedMs) / 1000,
      dataDir: dataPaths(this.#config.data.dir).dir,
      broker: addressText(this.#broker?.address ?? this.#neighbour?.address),
      http: addressText(this.#http?.address),
      topics:
        local === undefined || !this.#config.broker.enabled
          ? []
          : [
              ...local.streams.map((stream) => fillTopic(local.topics.batch, { gateway, stream })),
              fillTopic(local.topics.gap, { gateway }),
            ],
      parts: [
        ...this.#parts.missing(),
        ...[...this.#external.values()].map(sourceStatus),
        ...[...this.#uplinks.values()].map(uplinkStatus),
        ...missingProbes(this.probes()),
        ...lockDownStatus(this.#kernel?.lockedDown),
      ],
    };
  }

  async readiness(): Promise<Readiness> {
    const reasons: string[] = [];
    const notes: string[] = [];
    if (this.#ingest === undefined) reasons.push("starting");
    if (this.#outbox?.full === true)
      reasons.push("the outbox is full and an uplink says pause: send, purge, or raise outbox.maxBytes");
    for (const { name, state, reason, remedy } of this.status().parts) {
      if (state === "on" || state === "off") continue;
      const text = `${name}: ${reason ?? state}${remedy === undefined ? "" : `; ${remedy}`}`;
      if (name === "broker") reasons.push(text);
      else notes.push(text);
    }
    for (const { name, state, reason } of this.plugins()) {
      if (state !== "on" && state !== "disabled")
        notes.push(`plugin ${name}: ${state}, ${reason ?? "no reason"}`);
    }
    if (!this.#reloads.lastGood)
      notes.push("the latest configuration was refused: see `weir config validate`");
    return { ready: reasons.length === 0, reasons, notes };
  }

  async metrics(): Promise<string> {
    const outbox = this.#outbox;
    const [info, { lines }] = await Promise.all([outbox?.info(), this.ledger()]);
    return metricsText({
      version: this.#version,
      startedMs: this.#startedMs,
      ready: (await this.readiness()).ready,
      parts: this.status().parts,
      ledger: this.#ledger,
      lines,
      plugins: this.plugins(),
      probes: this.probes(),
      outbox: info,
      outboxFull: outbox?.full ?? false,
      outboxLimitBytes: this.#config.outbox.maxBytes,
      outboxRestarts: outbox?.restarts ?? 0,
      outboxBusy: outbox?.busy ?? 0,
      reloads: this.#reloads,
      suppressed: this.#log.suppressed,
      vitals: this.#vitals,
      pids: this.#pids(),
    });
  }

  #pids(): ReadonlyMap<string, number> {
    const hosts = this.#plugins?.pids ?? [];
    return new Map([
      ["weir", process.pid],
      ...hosts.map((pid, i) => [i === 0 ? "plugin-host" : `plugin-host-${i + 1}`, pid] as const),
    ]);
  }

  async ledger(): Promise<LedgerReport> {
    const counts = (await this.#outbox?.counts()) ?? [];
    return { epoch: this.#outbox?.epoch ?? "", lines: [...this.#ledger.lines(), ...counts.map(outboxLine)] };
  }

  async outbox(): Promise<OutboxReport> {
    const outbox = this.#outbox;
    if (outbox === undefined) throw new WeirError("outbox.closed");
    const [{ fileBytes, usedBytes, quarantined, oldest }, counts] = await Promise.all([
      outbox.info(),
      outbox.counts(),
    ]);
    return {
      fileBytes,
      usedBytes,
      quarantined,
      full: outbox.full,
      counts,
      oldest,
      limitBytes: this.#config.outbox.maxBytes,
    };
  }

  /** Drops what the outbox holds and has not on lease; gives how many samples went. */
  async purge({ uplink, stream, olderThanMs }: PurgeRequest): Promise<number> {
    return (await this.#outbox?.purge({ uplink, stream, untilMs: Date.now() - olderThanMs })) ?? 0;
  }

  plugins(): readonly PluginStatus[] {
    return (this.#plugins?.list() ?? []).map(pluginStatus);
  }

  plugin(name: string): PluginDetail | undefined {
    const manager = this.#plugins;
    const info = manager?.list().find((one) => one.name === name);
    if (manager === undefined || info === undefined) return undefined;
    const { limits, order } = info;
    return {
      ...pluginStatus(info),
      order,
      limits: limits === undefined ? undefined : { ...limits },
      layers: { ...(limits === undefined ? {} : componentWalls(limits)), ...manager.layers },
      logs: manager.logs(name),
    };
  }

  /** Enables, disables or rolls back a plugin; resolves when that has taken effect. */
  async pluginAction(name: string, action: PluginAction): Promise<void> {
    await this.#plugins?.[action](name);
  }

  probes(): readonly ProbeStatus[] {
    return (this.#kernel?.probes() ?? []).map(
      ({ name, state, fallback, reason, remedy, memoryBytes, cost, onDemand, untilMs }) => ({
        name,
        fallback,
        memoryBytes,
        cost,
        about: PROBE_TEXTS[name],
        state: state === "stopped" ? "off" : state,
        reason,
        remedy,
        onDemand: onDemand ?? false,
        untilMs,
      }),
    );
  }

  /** Runs a probe on demand for so long; undefined ends it. */
  switchProbe(name: string, forMs: number | undefined): void {
    const kernel = this.#kernel;
    if (kernel === undefined)
      throw new WeirError("probe.unavailable", "kernel probes are off: set sources.kernel.enabled to true");
    if (forMs === undefined) kernel.turnOff(name);
    else kernel.turnOn(name, forMs);
  }

  readonly #met = (source: string, route: Route): void => this.#introductions.met(source, route);

  readonly #refresh = (frame: Frame): void => {
    correctTimes(frame, this.#clock);
    this.#outbox?.refresh(frame).catch((thrown: unknown) => this.#write("warn", messageOf(thrown)));
  };

  readonly #write = (level: "info" | "warn" | "error", message: string): void => this.log[level](message);
}

const ingestOptions = ({ pipeline }: Config) => ({ ...pipeline, queueBytes: pipeline.queueMiB * 2 ** 20 });

const addressText = (
  address: { readonly host: string; readonly port: number } | undefined,
): string | undefined => (address === undefined ? undefined : `${address.host}:${address.port}`);

/** Takes the data folder; when another agent has it, asks that one who it is. */
async function holdOrExplain(dir: string): Promise<HeldDataFolder> {
  try {
    return holdDataFolder(dir);
  } catch (thrown) {
    if (!(thrown instanceof WeirError) || thrown.code !== "data.locked") throw thrown;
    const other = await new ApiClient(dataPaths(dir).socket).status().catch(() => undefined);
    if (other === undefined) throw thrown;
    throw new WeirError("data.locked", `${thrown.message}: pid ${other.pid}, gateway ${other.gateway}`, {
      cause: thrown,
    });
  }
}
