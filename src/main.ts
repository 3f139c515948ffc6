/** The agent, put together: what it starts with, how it starts, ends and changes. What things do is in their folders. */
import { isDeepStrictEqual } from "node:util";
import type { Worker } from "node:worker_threads";
import { keyedSliceHash } from "./addon/hash.ts";
import { MemoryTrim } from "./addon/memory-trim.ts";
import { ServiceManager } from "./addon/service.ts";
import { Answers } from "./answers.ts";
import { ApiClient } from "./api/client.ts";
import type { AgentStatus, ReloadReport } from "./api/types.ts";
import { ClockKeeper } from "./clock-keeper.ts";
import { keepLastGood } from "./config/last-good.ts";
import type { LoadedConfig } from "./config/load.ts";
import type { Config } from "./config/schema.ts";
import { messageOf, WeirError } from "./core/errors.ts";
import { dataPaths, type HeldDataFolder, holdDataFolder } from "./outbox/data-folder.ts";
import { WorkerOutbox } from "./outbox/outbox.ts";
import type { Trouble } from "./outbox/plan.ts";
import { OUTBOX_URL } from "./outbox-start.ts";
import { lockDownStatus, missingProbes, outboxPlan } from "./parts.ts";
import { Effects } from "./pipeline/effects.ts";
import { Ingest } from "./pipeline/ingest.ts";
import type { PluginFiles } from "./plugins/files.ts";
import { Kept } from "./plugins/kept.ts";
import { PluginManager } from "./plugins/manager.ts";
import { Versions } from "./plugins/versions.ts";
import { fixedChanges, sectionsChanged } from "./reload.ts";
import { Running } from "./running.ts";
import type { DeviceRule } from "./sources/options.ts";
import { brokerSpec, hostSpecs, partSpecs } from "./specs.ts";
import type { Logger, LogOptions } from "./telemetry/log.ts";

/** At a stop: time to commit what was taken in. With what is sent then, all of it is to be over in ten seconds. */
const COMMIT_MS = 4_000;
/** And for plugins' publish effects that are under way: those that are not done come with the next start. */
const EFFECTS_MS = 500;
/** The setting that keeps how large the plugin host was. */
const HOST_SIZE = "host/size";

/** A running agent. */
export class Agent {
  readonly #run: Running;
  readonly #files: PluginFiles;
  readonly #load: (before: Config) => Promise<LoadedConfig>;
  readonly #outboxThread: Worker;
  readonly #service = new ServiceManager(process.env);
  readonly #trim = new MemoryTrim();
  readonly #failed = Promise.withResolvers<WeirError>();
  readonly #answers: Answers;
  #reloading: Promise<unknown> = Promise.resolve();
  #folder: HeldDataFolder | undefined;
  #clockKeeper: ClockKeeper | undefined;

  /**
   * Does nothing yet: {@link start}. `load` reads the configuration again in the place of the one before, for {@link reload}; it rejects
   * when that is not valid. `outboxThread` waits for its plan (outbox-start.ts).
   */
  constructor(
    loaded: LoadedConfig,
    version: string,
    log: LogOptions,
    files: PluginFiles,
    load: (before: Config) => Promise<LoadedConfig>,
    outboxThread: Worker,
  ) {
    this.#run = new Running(loaded, version, log);
    this.#files = files;
    this.#load = load;
    this.#outboxThread = outboxThread;
    this.#answers = new Answers(this.#run, () => this.reload());
  }

  /** the agent's own log */
  get log(): Logger {
    return this.#run.log.logger;
  }

  /** Files whose change may change the configuration. */
  get configFiles(): readonly string[] {
    return this.#run.loaded.files;
  }

  /** Resolves when the agent can't go on; stop it then. */
  get failed(): Promise<WeirError> {
    return this.#failed.promise;
  }

  /** What runs, and what does not and why. */
  status(): AgentStatus {
    return this.#answers.status();
  }

  /**
   * Starts everything that can run here; what can't is in {@link status} with its reason and remedy, and is tried again.
   * @throws WeirError when nothing can run: the data folder is held or unusable, the database is damaged
   */
  async start(): Promise<void> {
    const { plugins, data } = this.#run.config;
    const folder = await holdOrExplain(data.dir);
    this.#folder = folder;
    this.#run.vitals.start();
    this.#trim.start();

    const outbox = new WorkerOutbox(
      OUTBOX_URL,
      outboxPlan(folder.paths, this.#run.config),
      {
        onCrash: (error) => this.#run.write("error", `${error.message}; it is started again`),
        onTrouble: (trouble) => this.#hearOfTrouble(trouble),
        onWalHeld: (why) =>
          this.#run.write(
            why === undefined ? "info" : "warn",
            why === undefined
              ? "outbox: the database's WAL can be emptied again"
              : `outbox: the database's WAL can't be emptied, and grows: ${why}`,
          ),
        beforeReopen: () => {
          folder.renew();
          this.#run.folderRenewals += 1;
        },
      },
      this.#outboxThread,
    );
    this.#run.outbox = outbox;
    const opened = outbox.start();
    const versions = new Versions(folder.paths.store, this.#files, {
      load: async (key) => {
        await opened;
        return await outbox.setting(key);
      },
      save: (key, value) => outbox.setSetting(key, value),
    });
    const manager = new PluginManager({
      options: plugins,
      cacheDir: folder.paths.cache,
      files: this.#files,
      versions,
      exclusively: (action) =>
        this.#run.ingest === undefined ? action() : this.#run.ingest.exclusively(action),
      loadState: async (plugin) => {
        await opened;
        return await outbox.state(plugin);
      },
      onLog: (plugin, level, message) => this.#run.log.logger[level](`plugin ${plugin}: ${message}`),
      sizes: {
        load: async () => {
          await opened;
          return await outbox.setting(HOST_SIZE);
        },
        save: (size) => outbox.setSetting(HOST_SIZE, size),
      },
      hashSlices: keyedSliceHash(),
    });
    this.#run.plugins = manager;
    this.#run.kept = new Kept({
      store: {
        list: () => outbox.kept(),
        dropState: (plugin) => outbox.dropState(plugin),
      },
      versions,
      files: this.#files,
      settings: () => manager.settings,
    });
    const started = Promise.all([opened, manager.start(this.#run.controller.signal)]);
    started.catch(() => {});
    // Devices may connect from here on; what they send waits for the loop.
    const places = this.#run.placeRules();
    await this.#run.parts.apply(brokerSpec(this.#run, places));
    await opened;
    // Probes are loaded while the plugin host starts.
    await this.#run.parts.apply([...brokerSpec(this.#run, places), ...hostSpecs(this.#run)]);
    await started;
    void outbox.ended.then((error) => {
      if (error !== undefined) this.#failed.resolve(error);
    });
    outbox.onEpoch(() => void this.#afterReopening());
    await this.#startLoops(manager, outbox);
    await this.#learnEpochs(outbox);
    await this.#run.parts.apply(partSpecs(this.#run, places, this.#answers));
    for (const { name, reason, remedy } of [
      ...missingProbes(this.#answers.probes()),
      ...lockDownStatus(this.#run.kernel?.lockedDown),
    ])
      this.#run.write("warn", `${name} off: ${reason}; ${remedy}`);
    const untold = this.#service.ready();
    if (untold !== undefined)
      this.#run.write("warn", `the service manager was not told that Weir is ready: ${untold}`);
  }

  #hearOfTrouble(trouble: Trouble | undefined): void {
    if (trouble === undefined) this.#run.write("info", "outbox: the database can be written to again");
    else
      this.#run.write(
        "error",
        `outbox: ${trouble.message}; nothing is acknowledged until that is mended; it is tried again and again`,
      );
  }

  /** A new worker has the database: consumers learn its epoch, and the socket moves to where the data folder is now. */
  async #afterReopening(): Promise<void> {
    await this.#announceEpoch();
    const run = this.#run;
    if (run.folderRenewals !== run.socketRenewals && !run.controller.signal.aborted)
      await run.parts.apply(partSpecs(run, run.placeRules(), this.#answers));
  }

  /** Devices that an earlier run has known: those that are gone may come back, the others may go. */
  async #remember(outbox: WorkerOutbox): Promise<void> {
    const { devices, mqtt } = this.#run.config.sources;
    const rulesOf = (source: string): readonly DeviceRule[] =>
      source.startsWith("mqtt/") ? (mqtt[source.slice("mqtt/".length)]?.rules ?? devices) : devices;
    for (const { device, source = "", rule, gone } of await outbox.remembered()) {
      const { staleAfter } = rulesOf(source).find(({ topic }) => topic === rule) ?? {};
      this.#run.presence.restore(device, gone, staleAfter);
    }
  }

  async #startLoops(manager: PluginManager, outbox: WorkerOutbox): Promise<void> {
    const effectsCount = this.#run.ledger.stage("effects", "publish", "messages");
    const publisher = () => (this.#run.config.broker.enabled ? this.#run.local : undefined);
    const effects = new Effects(outbox, publisher, effectsCount, (message) =>
      this.#run.write("warn", message),
    );
    this.#clockKeeper = new ClockKeeper(this.#run.clock, outbox, this.#run.write);
    await this.#clockKeeper.start();
    const ingest = new Ingest({
      decoder: this.#run.decoder,
      chain: manager.chain,
      outbox,
      ledger: this.#run.ledger,
      rejected: this.#run.rejected,
      clock: this.#run.clock,
      log: this.#run.write,
      onEffects: () => effects.run(),
      options: ingestOptions(this.#run.config),
    });
    this.#run.effects = effects;
    this.#run.ingest = ingest;
    ingest.start();
    await this.#remember(outbox);
    this.#run.early.handOver(ingest);
    this.#run.presence.start();
    this.#run.introductions.start();
    effects.run();
  }

  /**
   * Ends in order: takes in nothing more, commits what was taken in, sends what is due, says goodbye. Never throws.
   * @returns false when something that was not acknowledged had to be left: its senders will send it again
   */
  async stop(): Promise<boolean> {
    this.#service.stopping();
    await this.#reloading.catch(() => {});
    await this.#run.parts.stop((name) => name === "kernel" || name === "system");
    await this.#run.broker?.stop();
    await Promise.all([...this.#run.external.values()].map((source) => source.stop()));
    this.#run.presence.stop();
    this.#run.introductions.stop();
    await this.#clockKeeper?.stop();
    const committed = (await this.#run.ingest?.stop(COMMIT_MS)) ?? true;
    // Without a database the loops would wait for it.
    if (this.#run.outbox?.away === true) await this.#run.outbox.stop();
    await this.#run.parts.stop((name) => name.startsWith("source "));
    const late = new Promise((resolve) => setTimeout(resolve, EFFECTS_MS).unref());
    await Promise.race([this.#run.effects?.idle(), late]);
    await this.#run.parts.stop((name) => name.startsWith("uplink "));
    this.#run.controller.abort();
    await this.#run.plugins?.stop();
    await this.#run.outbox?.stop().catch((thrown: unknown) => this.#run.write("error", messageOf(thrown)));
    await this.#run.parts.stop();
    this.#run.vitals.stop();
    this.#trim.stop();
    this.#folder?.release();
    this.#service.close();
    return committed;
  }

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
      next = await this.#load(this.#run.config);
      if (next.empty && !this.#run.loaded.empty)
        throw new WeirError("config.invalid", `${next.file}: has no byte, as after a write to a full disk`);
    } catch (thrown) {
      this.#run.reloads.refused += 1;
      this.#run.reloads.lastGood = false;
      this.#run.write(
        "error",
        `the configuration is refused, what runs stays as it is: ${messageOf(thrown)}`,
      );
      throw thrown;
    }
    const before = this.#run.config;
    const fixed = fixedChanges(before, next.config);
    for (const what of fixed)
      this.#run.write("warn", `${what} has changed: that takes effect at the next start`);
    this.#run.loaded = { ...next, config: { ...next.config, gateway: before.gateway, data: before.data } };
    const changed = await this.#apply(before);
    this.#run.reloads.accepted += 1;
    this.#run.reloads.lastGood = true;
    this.keepConfig();
    const sections = sectionsChanged(before, this.#run.config);
    const restarted = changed.length === 0 ? "nothing restarts" : `restarted: ${changed.join(", ")}`;
    if (sections.length > 0)
      this.#run.write("info", `${sections.join(", ")} of the configuration changed; ${restarted}`);
    return { sections, restarted: changed, atNextStart: fixed };
  }

  /** Keeps what has taken effect, for a start with broken files. */
  keepConfig(): void {
    try {
      keepLastGood(dataPaths(this.#run.config.data.dir).dir, this.#run.loaded);
    } catch (thrown) {
      this.#run.write(
        "warn",
        `the configuration could not be kept for a start with broken files: ${messageOf(thrown)}`,
      );
    }
  }

  /** Makes what runs agree with the configuration; gives what was restarted. */
  async #apply(before: Config): Promise<string[]> {
    const { plugins, pipeline } = this.#run.config;
    const folder = this.#folder;
    const outbox = this.#run.outbox;
    if (folder === undefined || outbox === undefined) return [];
    if (!isDeepStrictEqual(before.pipeline, pipeline))
      this.#run.ingest?.retune(ingestOptions(this.#run.config));
    const changed: string[] = [];
    const parts = await this.#run.parts.apply(
      partSpecs(this.#run, this.#run.placeRules(), this.#answers),
      async () => {
        const plan = outboxPlan(folder.paths, this.#run.config);
        if (isDeepStrictEqual(plan, outboxPlan(folder.paths, before))) return;
        await outbox.restart(plan);
        await this.#learnEpochs(outbox).catch(() => {});
        changed.push("outbox");
      },
    );
    if (!isDeepStrictEqual(before.plugins, plugins)) {
      await this.#run.plugins?.reconfigure(plugins);
      changed.push("plugins");
    }
    return [...changed, ...parts];
  }

  /**
   * What a worker has found as it opened the database: the latest epochs (a consumer that was away longer reads gaps), damage, a
   * copy, and what went with uplinks that are gone.
   */
  async #learnEpochs(outbox: WorkerOutbox): Promise<void> {
    const { epochs, removed, quarantined, copied } = await outbox.info();
    this.#run.epochs = epochs.slice(-8);
    if (quarantined !== undefined)
      this.#run.write("error", `outbox: the database was damaged; it is now ${quarantined}`);
    if (copied !== undefined)
      this.#run.write("warn", `outbox: ${copied}; a new epoch has begun, so no key is used twice`);
    this.#run.copied = copied;
    for (const { uplink, stream, dropped } of removed)
      this.#run.write(
        "warn",
        `outbox: ${dropped} samples of ${stream} were dropped: uplink ${uplink}, which had not sent them, does not take ${stream} any more`,
      );
  }

  /** Consumers learn a new epoch from the status. */
  async #announceEpoch(): Promise<void> {
    const outbox = this.#run.outbox;
    if (outbox === undefined) return;
    try {
      await this.#learnEpochs(outbox);
      for (const [name, { uplink }] of this.#run.uplinks) {
        const options = this.#run.config.uplinks[name];
        if (options !== undefined && uplink.connected)
          await uplink.publish(this.#run.statusMessage(options, true));
      }
    } catch (thrown) {
      // A connection that is lost says it at its next start.
      this.#run.write("warn", `the status with the new epoch: ${messageOf(thrown)}`);
    }
  }
}

const ingestOptions = ({ pipeline }: Config) => ({ ...pipeline, queueBytes: pipeline.queueMiB * 2 ** 20 });

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
