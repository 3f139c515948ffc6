/** What the agent answers about itself, over its socket and over HTTP. */
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
  RemovedPlugin,
  VitalsReport,
} from "./api/types.ts";
import { WeirError } from "./core/errors.ts";
import { metricsText, vitalsReport } from "./measure.ts";
import { dataPaths } from "./outbox/data-folder.ts";
import {
  lockDownStatus,
  missingProbes,
  outboxLine,
  PROBE_TEXTS,
  pluginStatus,
  removedPlugin,
  sourceStatus,
  uplinkStatus,
} from "./parts.ts";
import { componentWalls } from "./plugins/walls.ts";
import type { Running } from "./running.ts";
import { pluginDecoders } from "./sources/router.ts";
import { cpuProfile, heapReport } from "./telemetry/profile.ts";
import { fillTopic } from "./uplink/topics.ts";

/** Reads what runs; changes only what an answer is asked to change. */
export class Answers implements ApiHandlers {
  readonly #run: Running;
  readonly reload: () => Promise<ReloadReport>;

  /** @param reload reads the configuration again and makes what runs agree with it */
  constructor(run: Running, reload: () => Promise<ReloadReport>) {
    this.#run = run;
    this.reload = reload;
  }

  status(): AgentStatus {
    const local = Object.values(this.#run.config.uplinks).find(({ url }) => url === "embedded");
    const gateway = this.#run.config.gateway.name;
    return {
      version: this.#run.version,
      gateway,
      epoch: this.#run.outbox?.epoch ?? "",
      pid: process.pid,
      uptime: (Date.now() - this.#run.startedMs) / 1000,
      dataDir: dataPaths(this.#run.config.data.dir).dir,
      broker: addressText(this.#run.broker?.address ?? this.#run.neighbour?.address),
      http: addressText(this.#run.http?.address),
      topics:
        local === undefined || !this.#run.config.broker.enabled
          ? []
          : [
              ...local.streams.map((stream) => fillTopic(local.topics.batch, { gateway, stream })),
              fillTopic(local.topics.gap, { gateway }),
            ],
      parts: [
        ...this.#run.parts.missing(),
        ...[...this.#run.external.values()].map(sourceStatus),
        ...[...this.#run.uplinks.values()].map(uplinkStatus),
        ...missingProbes(this.probes()),
        ...lockDownStatus(this.#run.kernel?.lockedDown),
      ],
    };
  }

  async readiness(): Promise<Readiness> {
    const reasons: string[] = [];
    const notes: string[] = [];
    if (this.#run.ingest === undefined) reasons.push("starting");
    if (this.#run.outbox?.full === true)
      reasons.push(
        "the outbox is full, or the disk nearly is, and an uplink says pause: send, purge, free space, or raise outbox.maxBytes",
      );
    const trouble = this.#run.outbox?.trouble;
    if (trouble !== undefined) {
      const since = new Date(trouble.sinceMs).toISOString();
      reasons.push(`outbox: ${trouble.message} (since ${since}); ${new WeirError("outbox.commit").remedy}`);
    }
    const walHeld = this.#run.outbox?.walHeld;
    if (walHeld !== undefined)
      notes.push(`outbox: its WAL can't be emptied, and grows: ${walHeld} (alarm outbox-wal)`);
    if (this.#run.copied !== undefined) notes.push(`outbox: ${this.#run.copied} (alarm outbox-copied)`);
    for (const { name, state, reason, remedy } of this.status().parts) {
      if (state === "on" || state === "off") continue;
      const text = `${name}: ${reason ?? state}${remedy === undefined ? "" : `; ${remedy}`}`;
      if (name === "broker") reasons.push(text);
      else notes.push(text);
    }
    const plugins = this.plugins();
    for (const { name, state, reason, behind } of plugins) {
      if (behind) notes.push(`plugin ${name}: ${reason}`);
      else if (state !== "on" && state !== "disabled")
        notes.push(`plugin ${name}: ${state}, ${reason ?? "no reason"}`);
    }
    const { devices, mqtt } = this.#run.config.sources;
    const rules = [...devices, ...Object.values(mqtt).flatMap((source) => source.rules)];
    for (const decoder of pluginDecoders(rules)) {
      if (plugins.some(({ name, exports }) => name === decoder && exports.includes("decoder"))) continue;
      notes.push(
        `plugin ${decoder}: a rule names it as decoder, and it decodes nothing: messages are rejected`,
      );
    }
    if (!this.#run.reloads.lastGood)
      notes.push("the latest configuration was refused: see `weir config validate`");
    return { ready: reasons.length === 0, reasons, notes };
  }

  async metrics(): Promise<string> {
    const outbox = this.#run.outbox;
    // Without a database, what is known beside it is shown.
    const [info, counts] = await Promise.all([
      outbox?.info().catch(() => undefined),
      outbox?.counts().catch(() => undefined),
    ]);
    const lines = [...this.#run.ledger.lines(), ...(counts ?? []).map(outboxLine)];
    return metricsText({
      version: this.#run.version,
      startedMs: this.#run.startedMs,
      ready: (await this.readiness()).ready,
      parts: this.status().parts,
      ledger: this.#run.ledger,
      lines,
      plugins: this.plugins(),
      probes: this.probes(),
      outbox: info,
      outboxFull: outbox?.full ?? false,
      outboxWritable: outbox?.trouble === undefined,
      outboxLimitBytes: this.#run.config.outbox.maxBytes,
      outboxRestarts: outbox?.restarts ?? 0,
      outboxBusy: outbox?.busy ?? 0,
      reloads: this.#run.reloads,
      suppressed: this.#run.log.suppressed,
      vitals: this.#run.vitals,
      pids: this.#pids(),
    });
  }

  async ledger(): Promise<LedgerReport> {
    const counts = (await this.#run.outbox?.counts()) ?? [];
    return {
      epoch: this.#run.outbox?.epoch ?? "",
      lines: [...this.#run.ledger.lines(), ...counts.map(outboxLine)],
    };
  }

  async outbox(): Promise<OutboxReport> {
    const outbox = this.#run.outbox;
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
      limitBytes: this.#run.config.outbox.maxBytes,
    };
  }

  /** Drops what the outbox holds and has not on lease; gives how many samples went. */
  async purge({ uplink, stream, olderThanMs }: PurgeRequest): Promise<number> {
    return (await this.#run.outbox?.purge({ uplink, stream, untilMs: Date.now() - olderThanMs })) ?? 0;
  }

  plugins(): readonly PluginStatus[] {
    return (this.#run.plugins?.list() ?? []).map(pluginStatus);
  }

  plugin(name: string): PluginDetail | undefined {
    const manager = this.#run.plugins;
    const info = manager?.list().find((one) => one.name === name);
    if (manager === undefined || info === undefined) return undefined;
    const { limits, order, asks, grants } = info;
    return {
      ...pluginStatus(info),
      order,
      asks,
      grants,
      limits: limits === undefined ? undefined : { ...limits },
      layers: { ...(limits === undefined ? {} : componentWalls(limits)), ...manager.layers },
      logs: manager.logs(name),
    };
  }

  async removedPlugins(): Promise<readonly RemovedPlugin[]> {
    const { kept, plugins } = this.#run;
    return ((await kept?.list(plugins?.names ?? [])) ?? []).map(removedPlugin);
  }

  async purgePlugin(name: string): Promise<RemovedPlugin> {
    const { kept, plugins } = this.#run;
    if (kept === undefined || plugins === undefined) throw new WeirError("outbox.closed");
    return removedPlugin(await plugins.alone(() => kept.purge(name)));
  }

  /** Enables, disables or rolls back a plugin; resolves when that has taken effect. */
  async pluginAction(name: string, action: PluginAction): Promise<void> {
    await this.#run.plugins?.[action](name);
  }

  probes(): readonly ProbeStatus[] {
    return (this.#run.kernel?.probes() ?? []).map(
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
    const kernel = this.#run.kernel;
    if (kernel === undefined)
      throw new WeirError("probe.unavailable", "kernel probes are off: set sources.kernel.enabled to true");
    if (forMs === undefined) kernel.turnOff(name);
    else kernel.turnOn(name, forMs);
  }

  rejected(): readonly unknown[] {
    return this.#run.rejected.list();
  }

  profile(seconds: number): Promise<object> {
    return cpuProfile(seconds);
  }

  heap(): object {
    return heapReport();
  }

  logLines(): readonly string[] {
    return this.#run.log.recent;
  }

  async vitals(): Promise<VitalsReport> {
    return vitalsReport(this.#run.ledger, this.#run.vitals, this.#pids());
  }

  #pids(): ReadonlyMap<string, number> {
    const hosts = this.#run.plugins?.pids ?? [];
    return new Map([
      ["weir", process.pid],
      ...hosts.map((pid, i) => [i === 0 ? "plugin-host" : `plugin-host-${i + 1}`, pid] as const),
    ]);
  }
}

const addressText = (
  address: { readonly host: string; readonly port: number } | undefined,
): string | undefined => (address === undefined ? undefined : `${address.host}:${address.port}`);
