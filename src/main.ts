/** The agent, put together. Everything here is wiring: what things do is in their folders. */
import { extname } from "node:path";
import { ServiceManager } from "./addon/service.ts";
import { ApiClient } from "./api/client.ts";
import { ApiServer } from "./api/server.ts";
import type {
  AgentStatus,
  LedgerReport,
  OutboxReport,
  PartStatus,
  PluginAction,
  PluginDetail,
  PluginStatus,
  ProbeStatus,
  PurgeRequest,
} from "./api/types.ts";
import type { Config } from "./config/schema.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import { Ledger, type LedgerLine } from "./core/ledger.ts";
import type { Gap, Intake, Outgoing, Uplink } from "./core/ports.ts";
import { dataPaths, type HeldDataFolder, holdDataFolder } from "./outbox/data-folder.ts";
import { WorkerOutbox } from "./outbox/outbox.ts";
import type { OutboxPlan } from "./outbox/plan.ts";
import { missingProbes, PROBE_TEXTS, pluginStatus, sourceStatus, uplinkStatus } from "./parts.ts";
import { EarlyIntake } from "./pipeline/early-intake.ts";
import { Effects } from "./pipeline/effects.ts";
import { Forward } from "./pipeline/forward.ts";
import { Ingest } from "./pipeline/ingest.ts";
import { RejectedLog } from "./pipeline/rejected.ts";
import { PluginManager } from "./plugins/manager.ts";
import { Versions } from "./plugins/versions.ts";
import { EmbeddedBroker } from "./sources/broker.ts";
import { KernelSource } from "./sources/kernel.ts";
import type { MqttSource } from "./sources/mqtt-source.ts";
import { allRules, mqttSources } from "./sources/mqtt-sources.ts";
import { RuleDecoder } from "./sources/rules.ts";
import { SystemSource } from "./sources/system.ts";
import { createLogger, type Logger, type LogOptions } from "./telemetry/log.ts";
import { statusMessage } from "./telemetry/status.ts";
import { LocalUplink } from "./uplink/local.ts";
import type { UplinkOptions } from "./uplink/options.ts";
import { fillTopic } from "./uplink/topics.ts";

/** At a stop: time to commit what was taken in, and then to send what is due. All of it is to be over in ten seconds. */
const COMMIT_MS = 4_000;
const SEND_MS = 1_500;

type Named = readonly [name: string, options: UplinkOptions];

/** A running agent. */
export class Agent {
  readonly #config: Config;
  readonly #version: string;
  /** the agent's own log */
  readonly log: Logger;
  readonly #ledger = new Ledger();
  readonly #rejected = new RejectedLog();
  readonly #controller = new AbortController();
  readonly #parts = new Map<string, PartStatus>();
  readonly #startedMs = Date.now();
  readonly #uplinks: { readonly uplink: Uplink; readonly forward: Forward }[] = [];
  readonly #service = new ServiceManager(process.env);
  readonly #failed = Promise.withResolvers<WeirError>();
  #folder: HeldDataFolder | undefined;
  #outbox: WorkerOutbox | undefined;
  #plugins: PluginManager | undefined;
  #broker: EmbeddedBroker | undefined;
  #external: readonly MqttSource[] = [];
  #kernel: KernelSource | undefined;
  #system: SystemSource | undefined;
  #ingest: Ingest | undefined;
  #effects: Effects | undefined;
  #api: ApiServer | undefined;

  /** Does nothing yet: {@link start}. */
  constructor(config: Config, version: string, log: LogOptions) {
    this.#config = config;
    this.#version = version;
    this.log = createLogger(log);
  }

  /** Resolves when the agent can't go on; stop it then. */
  get failed(): Promise<WeirError> {
    return this.#failed.promise;
  }

  /**
   * Starts everything that can run here; what can't is in {@link status} with its reason and remedy.
   * @throws WeirError when nothing can run: the data folder is held or unusable, the database is damaged
   */
  async start(): Promise<void> {
    const { sources, pipeline, plugins, uplinks, data } = this.#config;
    const signal = this.#controller.signal;
    const log = this.#write;
    const folder = await holdOrExplain(data.dir);
    this.#folder = folder;

    // Devices may connect from here on; what they send waits for the loop.
    const early = new EarlyIntake(this.#ledger.stage("source", "devices", "messages"));
    this.#broker = await this.#listen(early);
    const wanted = Object.entries(uplinks).filter(
      ([, { url }]) => url !== "embedded" || this.#broker !== undefined,
    );
    const outbox = new WorkerOutbox(
      new URL(`./worker${extname(import.meta.filename)}`, import.meta.url),
      this.#outboxPlan(folder, wanted),
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
    });
    this.#plugins = manager;
    await Promise.all([opened, manager.start(signal)]);
    void outbox.ended.then((error) => {
      if (error !== undefined) this.#failed.resolve(error);
    });

    const effectsCount = this.#ledger.stage("effects", "publish", "messages");
    const effects = new Effects(outbox, this.#broker, effectsCount, (message) => log("warn", message));
    const decoder = new RuleDecoder(allRules(sources));
    const ingest = new Ingest({
      decoder,
      chain: manager.chain,
      outbox,
      ledger: this.#ledger,
      rejected: this.#rejected,
      log,
      onEffects: () => effects.run(),
      options: { ...pipeline, queueBytes: pipeline.queueMiB * 2 ** 20 },
    });
    this.#effects = effects;
    this.#ingest = ingest;
    ingest.start();
    early.handOver(ingest);
    effects.run();

    // Only the latest: a consumer that was away longer reads gaps.
    const { epochs: known, quarantined } = await outbox.info();
    if (quarantined !== undefined) log("error", `outbox: the database was damaged; it is now ${quarantined}`);
    const epochs = known.slice(-8);
    for (const [name, options] of wanted) {
      const uplink = await this.#makeUplink(name, options, epochs);
      const gapMessage = (gap: Gap): Outgoing => this.#gapMessage(options, gap);
      const forward = new Forward({ uplink, outbox, ledger: this.#ledger, log, gapMessage });
      this.#uplinks.push({ uplink, forward });
      await uplink.start(signal);
      forward.start();
    }
    this.#external = mqttSources(sources, {
      gateway: this.#config.gateway.name,
      templates: Object.values(uplinks).flatMap(({ topics }) => Object.values(topics)),
      decoder,
      ledger: this.#ledger,
      log,
    });
    await Promise.all(this.#external.map((source) => source.start(ingest, signal)));
    await this.#startHost(ingest);
    await this.#serve(folder);
    const untold = this.#service.ready();
    if (untold !== undefined) log("warn", `the service manager was not told that Weir is ready: ${untold}`);
  }

  /**
   * Ends in order: takes in nothing more, commits what was taken in, sends what is due, says goodbye. Never throws.
   * @returns false when something that was not acknowledged had to be left: its senders will send it again
   */
  async stop(): Promise<boolean> {
    this.#service.stopping();
    await this.#kernel?.stop();
    await this.#system?.stop();
    await this.#broker?.stop();
    await Promise.all(this.#external.map((source) => source.stop()));
    const committed = (await this.#ingest?.stop(COMMIT_MS)) ?? true;
    await Promise.all(this.#external.map((source) => source.close()));
    await this.#effects?.idle();
    await Promise.all(this.#uplinks.map(({ forward }) => forward.stop(SEND_MS)));
    await Promise.all(this.#uplinks.map(({ uplink }) => uplink.stop()));
    this.#controller.abort();
    await this.#plugins?.stop();
    await this.#outbox?.stop().catch((thrown: unknown) => this.#write("error", messageOf(thrown)));
    await this.#broker?.close();
    await this.#api?.stop();
    this.#folder?.release();
    this.#service.close();
    return committed;
  }

  status(): AgentStatus {
    const address = this.#broker?.address;
    const local = Object.values(this.#config.uplinks).find(({ url }) => url === "embedded");
    const gateway = this.#config.gateway.name;
    return {
      version: this.#version,
      gateway,
      epoch: this.#outbox?.epoch ?? "",
      pid: process.pid,
      uptime: (Date.now() - this.#startedMs) / 1000,
      dataDir: dataPaths(this.#config.data.dir).dir,
      broker: address === undefined ? undefined : `${address.host}:${address.port}`,
      topics:
        local === undefined
          ? []
          : [
              ...local.streams.map((stream) => fillTopic(local.topics.batch, { gateway, stream })),
              fillTopic(local.topics.gap, { gateway }),
            ],
      parts: [
        ...this.#parts.values(),
        ...this.#external.map(sourceStatus),
        ...this.#uplinks.map(({ uplink }) => uplinkStatus(uplink)),
        ...missingProbes(this.probes()),
      ],
    };
  }

  async ledger(): Promise<LedgerReport> {
    const outbox = this.#outbox;
    const counts = outbox === undefined ? [] : await outbox.counts();
    const lines = counts.map(
      ({ uplink, stream, committed, acked, ...rest }): LedgerLine => ({
        stage: "outbox",
        name: `${uplink}/${stream}`,
        unit: "samples",
        in: committed,
        out: acked,
        lost: rest.lost,
        dropped: rest.dropped,
        rejected: rest.rejected,
        held: rest.held,
        also: {},
      }),
    );
    return { epoch: outbox?.epoch ?? "", lines: [...this.#ledger.lines(), ...lines] };
  }

  async outbox(): Promise<OutboxReport> {
    const outbox = this.#outbox;
    if (outbox === undefined) throw new WeirError("outbox.closed");
    const [{ fileBytes, usedBytes, quarantined }, counts] = await Promise.all([
      outbox.info(),
      outbox.counts(),
    ]);
    return { fileBytes, usedBytes, quarantined, full: outbox.full, counts };
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
      layers: manager.layers,
      logs: manager.logs(name),
    };
  }

  /** Enables, disables or rolls back a plugin; resolves when that has taken effect. */
  async pluginAction(name: string, action: PluginAction): Promise<void> {
    await this.#plugins?.[action](name);
  }

  /** Takes another `plugins` section of the configuration; what it doesn't change goes on untouched. */
  async reconfigurePlugins(plugins: Config["plugins"]): Promise<void> {
    await this.#plugins?.reconfigure(plugins);
  }

  probes(): readonly ProbeStatus[] {
    return (this.#kernel?.probes() ?? []).map(({ name, state, reason, remedy, memoryBytes }) => ({
      name,
      memoryBytes,
      about: PROBE_TEXTS[name],
      state: state === "stopped" ? "off" : state,
      reason,
      remedy,
    }));
  }

  readonly #write = (level: "info" | "warn" | "error", message: string): void => this.log[level](message);

  async #listen(intake: Intake): Promise<EmbeddedBroker | undefined> {
    const { broker, sources } = this.#config;
    if (!broker.enabled) return undefined;
    const count = this.#ledger.stage("source", "devices", "messages");
    const embedded = new EmbeddedBroker(broker, sources.devices, count, this.#write);
    try {
      await embedded.start(intake, this.#controller.signal);
      return embedded;
    } catch (thrown) {
      const remedy = thrown instanceof WeirError ? thrown.remedy : undefined;
      this.#part("broker", "unavailable", messageOf(thrown), remedy);
      return undefined;
    }
  }

  #outboxPlan({ paths }: HeldDataFolder, uplinks: readonly Named[]): OutboxPlan {
    const { gateway, outbox } = this.#config;
    return {
      path: paths.database,
      gateway: gateway.name,
      sync: outbox.sync,
      maxBytes: outbox.maxBytes,
      uplinks: uplinks.map(([name, { streams, batch, topics, last, url, overflow, ttl, replay }]) => {
        const keepsLast = last ?? url === "embedded";
        return {
          name,
          streams,
          batch,
          overflow,
          ttlMs: ttl,
          replay: { share: Number.parseInt(replay.share, 10) / 100, afterMs: replay.after },
          topics: {
            batch: topics.batch,
            last: keepsLast ? topics.last : undefined,
            alarm: keepsLast ? topics.alarm : undefined,
          },
        };
      }),
    };
  }

  async #makeUplink(
    name: string,
    options: UplinkOptions,
    epochs: Parameters<typeof statusMessage>[1]["epochs"],
  ): Promise<Uplink> {
    const gateway = this.#config.gateway.name;
    const facts = {
      gateway,
      version: this.#version,
      epoch: this.#outbox?.epoch ?? "",
      since: this.#startedMs,
      uplinks: Object.keys(this.#config.uplinks),
      epochs,
    };
    const status = (online: boolean): Outgoing =>
      statusMessage(fillTopic(options.topics.status, { gateway }), facts, online);
    if (options.url === "embedded" && this.#broker !== undefined)
      return new LocalUplink(name, options, this.#broker, status);
    // Loaded only where it is used: mqtt.js takes 8 MB.
    const { MqttUplink } = await import("./uplink/mqtt.ts");
    return new MqttUplink(name, options, { gateway, status, log: this.#write });
  }

  /** `gap {epoch, stream, from, to, reason}`; both ends belong to it (docs/specs/json.md). */
  #gapMessage({ topics }: UplinkOptions, { epoch, stream, from, to, reason }: Gap): Outgoing {
    const gateway = this.#config.gateway.name;
    return {
      topic: fillTopic(topics.gap, { gateway }),
      payload: Buffer.from(JSON.stringify({ v: 1, gateway, epoch, stream, from, to, reason })),
      qos: 1,
      retain: false,
      contentType: "application/json",
      userProperties: undefined,
    };
  }

  async #startHost(intake: Intake): Promise<void> {
    const { kernel, system } = this.#config.sources;
    const signal = this.#controller.signal;
    if (kernel.enabled) {
      this.#kernel = new KernelSource({ intervalMs: kernel.intervalMs, ledger: this.#ledger });
      await this.#kernel.start(intake, signal);
      for (const { name, reason, remedy } of missingProbes(this.probes())) {
        this.#write("warn", `${name} off: ${reason}; ${remedy}`);
      }
    }
    if (system.enabled) {
      this.#system = new SystemSource({ intervalMs: system.intervalMs }, (problem) =>
        this.#write("warn", problem),
      );
      await this.#system.start(intake, signal);
    }
  }

  async #serve({ paths }: HeldDataFolder): Promise<void> {
    this.#api = new ApiServer(paths.socket, {
      status: () => this.status(),
      ledger: () => this.ledger(),
      plugins: () => this.plugins(),
      plugin: (name) => this.plugin(name),
      pluginAction: (name, action) => this.pluginAction(name, action),
      outbox: () => this.outbox(),
      purge: (what) => this.purge(what),
      probes: () => this.probes(),
      rejected: () => this.#rejected.list(),
    });
    try {
      await this.#api.start();
    } catch (thrown) {
      this.#part(
        "socket",
        "failed",
        messageOf(thrown),
        "choose a data.dir with a shorter path, on a file system that has sockets",
      );
    }
  }

  #part(name: string, state: PartStatus["state"], reason: string, remedy: string | undefined): void {
    this.#parts.set(name, { name, state, reason, remedy });
    this.#write("warn", `${name}: ${reason}${remedy === undefined ? "" : `; ${remedy}`}`);
  }
}

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
