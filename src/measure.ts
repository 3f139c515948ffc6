/** One reading of the whole agent, for `/metrics` and for `weir top`. */
import type { LedgerReport, PartStatus, PluginStatus, ProbeStatus, VitalsReport } from "./api/types.ts";
import type { Ledger } from "./core/ledger.ts";
import type { StoreInfo } from "./outbox/store.ts";
import { MetricsPage } from "./telemetry/metrics.ts";
import { openDescriptors, type Vitals } from "./telemetry/vitals.ts";

/** What a reading is made of. */
export interface Reading {
  readonly version: string;
  readonly startedMs: number;
  readonly ready: boolean;
  readonly parts: readonly PartStatus[];
  readonly ledger: Ledger;
  readonly lines: LedgerReport["lines"];
  readonly plugins: readonly PluginStatus[];
  readonly probes: readonly ProbeStatus[];
  readonly outbox: StoreInfo | undefined;
  readonly outboxFull: boolean;
  readonly outboxWritable: boolean;
  readonly outboxLimitBytes: number;
  readonly outboxRestarts: number;
  readonly outboxBusy: number;
  readonly reloads: { readonly accepted: number; readonly refused: number; readonly lastGood: boolean };
  readonly suppressed: number;
  readonly vitals: Vitals;
  readonly pids: ReadonlyMap<string, number>;
}

/** The page of `/metrics`. */
export function metricsText(reading: Reading): string {
  const page = new MetricsPage();
  const flag = (value: boolean): number => (value ? 1 : 0);
  page.add("weir_build_info", [reading.version, process.version, process.arch], 1);
  page.add("weir_start_time_seconds", [], reading.startedMs / 1000);
  page.add("weir_ready", [], flag(reading.ready));
  for (const { name, state } of reading.parts) {
    if (!name.startsWith("kernel probe")) page.add("weir_part_up", [name], flag(state === "on"));
  }
  page.add("weir_config_last_reload_success", [], flag(reading.reloads.lastGood));
  page.add("weir_config_reloads_total", ["accepted"], reading.reloads.accepted);
  page.add("weir_config_reloads_total", ["refused"], reading.reloads.refused);
  for (const line of reading.lines) page.addLine(line);
  for (const { thing, name, histogram } of reading.ledger.timings())
    page.add(`weir_${thing}_seconds`, name === "" ? [] : [name], histogram);
  addOutbox(page, reading);
  for (const { name, state, busyMs, stateBytes, wasmBytes, heapBytes, ...counts } of reading.plugins) {
    const { failures, restarts } = counts;
    page.add("weir_plugin_up", [name], flag(state === "on"));
    page.add("weir_plugin_busy_seconds_total", [name], busyMs / 1000);
    page.add("weir_plugin_state_bytes", [name], stateBytes);
    page.add("weir_plugin_memory_bytes", [name, "wasm"], wasmBytes);
    page.add("weir_plugin_memory_bytes", [name, "heap"], heapBytes);
    page.add("weir_plugin_failures_total", [name], failures);
    page.add("weir_plugin_restarts_total", [name], restarts);
  }
  for (const { name, state, memoryBytes, cost, onDemand } of reading.probes) {
    if (onDemand && state !== "on") continue;
    page.add("weir_probe_up", [name], flag(state === "on"));
    if (memoryBytes !== undefined) page.add("weir_probe_memory_bytes", [name], memoryBytes);
    if (cost === undefined) continue;
    page.add("weir_probe_run_seconds", [name], cost.nsPerRun / 1e9);
    page.add("weir_probe_cpu_ratio", [name], (cost.nsPerRun / 1e9) * cost.runsPerSecond);
  }
  for (const { name, pssBytes, cpuSeconds } of reading.vitals.processes(reading.pids)) {
    page.add("weir_process_pss_bytes", [name], pssBytes);
    page.add("weir_process_cpu_seconds_total", [name], cpuSeconds);
  }
  page.add("weir_process_open_fds", [], openDescriptors());
  page.add("weir_loop_lag_seconds", [], reading.vitals.lag);
  page.add("weir_loop_busy_ratio", ["main"], reading.vitals.busy);
  page.add("weir_loop_busy_ratio", ["outbox"], reading.outboxBusy);
  for (const [kind, pauses] of reading.vitals.gc) page.add("weir_gc_pause_seconds", [kind], pauses);
  page.add("weir_heap_used_bytes", [], process.memoryUsage().heapUsed);
  page.add("weir_log_suppressed_total", [], reading.suppressed);
  return page.text();
}

function addOutbox(page: MetricsPage, reading: Reading): void {
  const { outbox, outboxFull, outboxLimitBytes, outboxRestarts } = reading;
  page.add("weir_outbox_limit_bytes", [], outboxLimitBytes);
  page.add("weir_outbox_full", [], outboxFull ? 1 : 0);
  page.add("weir_outbox_writable", [], reading.outboxWritable ? 1 : 0);
  page.add("weir_outbox_restarts_total", [], outboxRestarts);
  if (outbox === undefined) return;
  page.add("weir_outbox_file_bytes", [], outbox.fileBytes);
  page.add("weir_outbox_used_bytes", [], outbox.usedBytes);
  page.add("weir_outbox_wal_bytes", [], outbox.walBytes);
  page.add("weir_devices", [], outbox.devices);
  page.add("weir_devices_unkept_samples_total", [], outbox.valuesUnkept);
  const now = Date.now();
  for (const { uplink, stream, createdMs } of outbox.oldest)
    page.add("weir_outbox_oldest_age_seconds", [uplink, stream], Math.max(0, now - createdMs) / 1000);
}

/** What `weir top` needs beside the listings. */
export function vitalsReport(
  ledger: Ledger,
  vitals: Vitals,
  pids: ReadonlyMap<string, number>,
): VitalsReport {
  return {
    at: performance.now() / 1000,
    loopLag: vitals.lag,
    loopBusy: vitals.busy,
    openFds: openDescriptors(),
    processes: vitals.processes(pids),
    latencies: Object.fromEntries(
      ledger
        .timings()
        .map(({ thing, name, histogram: { bounds, counts } }) => [
          name === "" ? thing : `${thing} ${name}`,
          { bounds: [...bounds], counts: [...counts] },
        ]),
    ),
  };
}
