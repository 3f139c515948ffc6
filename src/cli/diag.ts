import { spawnSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { cpus, freemem, loadavg, release, totalmem, uptime } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { stringify } from "yaml";
import type { ApiClient } from "../api/client.ts";
import { redactor, withoutSecrets } from "../config/secrets.ts";
import { messageOf } from "../core/errors.ts";
import { formatSize } from "../core/units.ts";
import { examine } from "../doctor.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, chosenConfigOf, writeOut } from "./context.ts";
import { option } from "./option.ts";
import { dim, line } from "./output.ts";
import { tar } from "./tar.ts";
import { version } from "./version.ts";

/** Entries of the data folder that are listed. */
const MOST_ENTRIES = 500;

/**
 * `weir diag`: a support bundle. It has what the agent says of itself, the configuration without secrets, the machine, and the latest
 * log lines; it has no payloads of devices and no secrets.
 */
export async function diag(invocation: Invocation): Promise<number> {
  const chosen = chosenConfigOf(invocation);
  const { loaded, fallback } = chosen;
  const redact = redactor(loaded.secrets);
  const files = new Map<string, string>();
  const add = (name: string, text: string): void => void files.set(`weir-diag/${name}`, redact(text));
  add("config.yaml", stringify(withoutSecrets(loaded.config, loaded.secrets)));
  add("machine.json", json({ ...machine(), version: version(), files: loaded.files, fallback }));
  add("data-folder.txt", listing(loaded.config.data.dir));
  add("check.json", json(await examine(chosen)));
  await addAgent(agentOf(invocation), add);
  add("journal.txt", journal());
  const bytes = gzipSync(tar(files, Date.now() / 1000));
  const stamp = new Date().toISOString().replace(/[-:]|\..*/g, "");
  const named = option(invocation, "out");
  const path = named ?? `weir-diag-${loaded.config.gateway.name}-${stamp}.tar.gz`;
  writeOut(path, bytes, 0o600, named === undefined);
  line(`${path}: ${formatSize(bytes.byteLength)}`);
  for (const name of files.keys()) line(dim(`  ${name}`));
  line("no secrets and no payloads of devices are in it; names of devices and topics may be");
  return 0;
}

async function addAgent(agent: ApiClient, add: (name: string, text: string) => void): Promise<void> {
  const asked: [string, () => Promise<unknown>][] = [
    ["status.json", () => agent.status()],
    ["readyz.json", () => agent.readiness()],
    ["ledger.json", () => agent.ledger()],
    ["outbox.json", () => agent.outbox()],
    ["plugins.json", () => agent.plugins()],
    ["probes.json", () => agent.probes()],
    ["vitals.json", () => agent.vitals()],
    ["heap.json", () => agent.heap()],
    ["log.json", () => agent.logLines()],
  ];
  for (const [name, ask] of asked) {
    try {
      add(name, json(await ask()));
    } catch (thrown) {
      add(name, json({ error: messageOf(thrown) }));
    }
  }
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

const machine = () => ({
  time: new Date().toISOString(),
  node: process.version,
  arch: process.arch,
  kernel: release(),
  os: read("/etc/os-release").match(/^PRETTY_NAME="?([^"\n]*)/m)?.[1],
  cpus: cpus().map(({ model }) => model),
  load: loadavg(),
  memoryBytes: { total: totalmem(), free: freemem() },
  uptimeS: uptime(),
  pressure: read("/proc/pressure/cpu") + read("/proc/pressure/memory") + read("/proc/pressure/io"),
  cgroup: read("/proc/self/cgroup").trim(),
  mounts: read("/proc/self/mounts")
    .split("\n")
    .filter((mount) => mount.startsWith("/dev/")),
});

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** Names, sizes and modes; no contents. */
function listing(dir: string): string {
  try {
    const names = readdirSync(dir, { recursive: true, encoding: "utf8" }).sort();
    const shown = names.slice(0, MOST_ENTRIES).map((name) => {
      const { mode, size, mtime, uid } = lstatSync(join(dir, name));
      return `${(mode & 0o7777).toString(8).padStart(4)} ${uid} ${String(size).padStart(12)} ${mtime.toISOString()} ${name}`;
    });
    return `${dir}, ${names.length} entries\n${shown.join("\n")}\n`;
  } catch (thrown) {
    return `${messageOf(thrown)}\n`;
  }
}

/** What the service's journal has, where there is one. */
function journal(): string {
  const args = ["--unit=weir", "--lines=500", "--no-pager", "--output=short-iso"];
  const { stdout, error } = spawnSync("journalctl", args, { encoding: "utf8", timeout: 10_000 });
  return error === undefined ? stdout : `journalctl: ${error.message}\n`;
}
