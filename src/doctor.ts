/** `weir check`: looks at the machine, the configuration and the running agent. Every finding that is not good has a remedy. */

import { accessSync, constants, existsSync, readFileSync, statfsSync, statSync } from "node:fs";
import { connect } from "node:net";
import { totalmem } from "node:os";
import { dirname, extname, join } from "node:path";
import { addonState, crc32cImplementation, kernelSupport, PROBES } from "./addon/index.ts";
import { ApiClient } from "./api/client.ts";
import type { AgentStatus } from "./api/types.ts";
import { brokerRemedy } from "./broker-remedy.ts";
import type { Chosen } from "./config/choose.ts";
import type { LoadedConfig } from "./config/load.ts";
import { errnoOf, messageOf, WeirError } from "./core/errors.ts";
import { formatSize } from "./core/units.ts";
import { NEIGHBOUR } from "./neighbour-name.ts";
import { dataPaths, folderProblems, whyUnusable } from "./outbox/data-folder.ts";
import { jailLayers, spawnJailed } from "./plugins/jail.ts";
import { findLauncher } from "./plugins/jail-launcher.ts";
import { DEFAULT_LIMITS } from "./plugins/limits.ts";
import { componentWalls } from "./plugins/walls.ts";

/** One thing that was looked at. */
export interface Finding {
  readonly subject: string;
  readonly state: "good" | "warn" | "bad";
  readonly what: string;
  /** what to do, when the state is not good */
  readonly remedy: string | undefined;
}

const good = (subject: string, what: string): Finding => ({
  subject,
  state: "good",
  what,
  remedy: undefined,
});
const warn = (subject: string, what: string, remedy: string): Finding => ({
  subject,
  state: "warn",
  what,
  remedy,
});
const bad = (subject: string, what: string, remedy: string): Finding => ({
  subject,
  state: "bad",
  what,
  remedy,
});

/** Where the Debian package puts it. */
const UNIT = "/usr/lib/systemd/system/weir.service";

/** Below this much free space the outbox can't grow to a useful size. */
const LEAST_FREE_BYTES = 64 * 2 ** 20;
/** 2025-01-01: a clock before Weir was written is not set. */
const LEAST_CLOCK_MS = 1_735_689_600_000;
const CONNECT_MS = 2_000;

/** All processes with three plugins and 2,000 messages a second take 145 MiB (bench/README.md). */
const LEAST_MEMORY_BYTES = 160 * 2 ** 20;

/** Looks at everything. Takes a second or two, changes nothing. `fallback`: why the last good configuration is looked at. */
export async function examine({ loaded, fallback }: Chosen): Promise<Finding[]> {
  const { config } = loaded;
  const client = new ApiClient(dataPaths(config.data.dir).socket);
  const answer = await client.status().catch(noAgent);
  const agent = "pid" in answer ? answer : undefined;
  const readiness = await client.readiness().catch(() => undefined);
  const findings = [
    good("node", `${process.version} on ${process.arch}`),
    fallback === undefined
      ? good("configuration", loaded.files.join(", ") || "no file: defaults")
      : bad("configuration", fallback, "mend what is listed, then `weir config validate`"),
    ...secrets(loaded),
    memory(),
    ...kernel(),
    addon(),
    dataFolder(config.data.dir, config.outbox.maxBytes),
    clock(),
    "pid" in answer
      ? good("agent", `pid ${answer.pid}, gateway ${answer.gateway}, epoch ${answer.epoch}`)
      : answer,
    ...(await Promise.all([
      agent === undefined ? port(config.broker) : Promise.resolve(good("broker", brokerOf(agent))),
      agent === undefined
        ? httpPort(config.http)
        : Promise.resolve(good("http", agent.http === undefined ? "off" : `listens on ${agent.http}`)),
      ...Object.entries(config.uplinks).map(([name, { url }]) => reach(name, url)),
    ])),
    ...(await jail()),
  ];
  for (const part of agent?.parts ?? []) {
    if (part.state === "on" || part.state === "off") continue;
    // The running agent knows more of an uplink than a look at its address tells.
    const looked = findings.findIndex(({ subject }) => subject === part.name);
    if (looked >= 0) findings.splice(looked, 1);
    findings.push(warn(part.name, part.reason ?? part.state, part.remedy ?? "see the agent's log"));
  }
  for (const reason of readiness?.reasons ?? [])
    findings.push(bad("ready", reason, "docs/operations.md has an entry for each of these"));
  for (const note of readiness?.notes ?? []) {
    if (note.startsWith("plugin ")) {
      const remedy = note.includes(" as decoder, ")
        ? "drop it into plugins.dir, or mend the rule in sources"
        : "`weir plugin logs <name>` says more";
      findings.push(warn("plugin", note.slice(7), remedy));
    }
    if (note.startsWith("the latest configuration") && fallback === undefined)
      findings.push(
        bad(
          "configuration",
          "what runs has an earlier one: the latest was refused",
          "`weir config validate` says why; `weir reload` once it is mended",
        ),
      );
    if (note.startsWith("outbox: "))
      findings.push(warn("outbox", note.slice(8), "docs/operations.md has an entry for the alarm"));
  }
  return findings;
}

/** Why the agent says nothing of itself. */
function noAgent(thrown: unknown): Finding {
  const errno = thrown instanceof WeirError ? errnoOf(thrown.cause) : undefined;
  const none = errno === "ENOENT" || errno === "ECONNREFUSED";
  const start = existsSync(UNIT) ? "`systemctl start weir`" : "`weir run`";
  const remedy = none ? `start it with ${start}` : "ask as the user that it runs as, or as root";
  return warn("agent", none ? `none: ${messageOf(thrown)}` : messageOf(thrown), remedy);
}

/** Files of secrets, and a configuration that holds one, are for the agent's user alone. */
function secrets({ files, secrets: known }: LoadedConfig): Finding[] {
  if (known.size === 0) return [];
  return files.flatMap((path) => {
    const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
    if ((mode & 0o007) === 0 || !holdsOne(path, known)) return [];
    return [warn("secrets", `${path} can be read by every user`, `chmod o-rwx ${path}`)];
  });
}

function holdsOne(path: string, secrets: ReadonlySet<string>): boolean {
  try {
    const text = readFileSync(path, "utf8");
    return [...secrets].some((secret) => text.includes(secret));
  } catch {
    return false;
  }
}

function memory(): Finding {
  const limit = process.constrainedMemory();
  const most = Math.min(totalmem(), limit > 0 ? limit : Number.POSITIVE_INFINITY);
  if (most >= LEAST_MEMORY_BYTES) return good("memory", `${formatSize(most)} at most`);
  return warn(
    "memory",
    `${formatSize(most)} at most`,
    "give it 160 MiB, or turn the kernel probes off and run fewer plugins",
  );
}

function kernel(): Finding[] {
  const { release, recentEnough, btf, capBpf, capPerfmon } = kernelSupport();
  const missing = [capBpf ? "" : "CAP_BPF", capPerfmon ? "" : "CAP_PERFMON"].filter((name) => name !== "");
  return [
    recentEnough
      ? good("kernel", release)
      : warn(
          "kernel",
          `${release} is older than 5.17: no eBPF probes, what /proc tells instead`,
          "upgrade the kernel",
        ),
    btf
      ? good("kernel types", "/sys/kernel/btf/vmlinux")
      : warn(
          "kernel types",
          "no /sys/kernel/btf/vmlinux: probes run if the kernel only hides it, and reasons of dropped packets are numbers",
          "make /sys visible to this container; else use a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
    missing.length === 0
      ? good("capabilities", "CAP_BPF, CAP_PERFMON")
      : warn(
          "capabilities",
          `${missing.join(" and ")} missing: no eBPF probes, what /proc tells instead`,
          "run as root, or give the service AmbientCapabilities=CAP_BPF CAP_PERFMON",
        ),
  ];
}

function addon(): Finding {
  const state = addonState();
  if (!state.ok) return warn("addon", state.reason, state.remedy);
  return good("addon", `loaded; probes ${PROBES.join(", ")}; CRC32C by ${crc32cImplementation()}`);
}

function dataFolder(dir: string, maxBytes: number): Finding {
  let folder = dataPaths(dir).dir;
  const exists = existsSync(folder);
  while (!existsSync(folder)) folder = dirname(folder);
  const remedy = "`chown -R` it to the user that Weir runs as, mount it writable, or set data.dir";
  try {
    if (!statSync(folder).isDirectory())
      return bad("data folder", `${folder}: there is a file in the place of a folder`, remedy);
    accessSync(folder, constants.W_OK | constants.X_OK);
    const [problem] = exists ? folderProblems(folder) : [];
    if (problem !== undefined) return bad("data folder", problem, remedy);
    const { bavail, bsize } = statfsSync(folder);
    const free = bavail * bsize;
    const what = `${dataPaths(dir).dir}${exists ? "" : " (made at the first start)"}, ${formatSize(free)} free`;
    if (free < LEAST_FREE_BYTES)
      return bad("data folder", what, "free space on that file system, or set data.dir");
    if (free < maxBytes && !exists) {
      return warn(
        "data folder",
        `${what}; the outbox may grow to ${formatSize(maxBytes)}`,
        "set outbox.maxBytes below what is free",
      );
    }
    return good("data folder", what);
  } catch (thrown) {
    return bad("data folder", whyUnusable(folder, thrown), remedy);
  }
}

function clock(): Finding {
  const now = new Date();
  if (now.getTime() < LEAST_CLOCK_MS) {
    return warn(
      "clock",
      `${now.toISOString()} is in the past`,
      "set the clock, or let NTP do it (timedatectl set-ntp true)",
    );
  }
  return good("clock", now.toISOString());
}

/** What stands for the embedded broker of a running agent; one that failed has a finding of its own. */
function brokerOf({ broker, parts }: AgentStatus): string {
  const neighbour = parts.some(({ name }) => name === `source mqtt/${NEIGHBOUR}`);
  if (broker === undefined) return "the embedded one does not run";
  return neighbour ? `another program's on ${broker}, in the embedded one's place` : `listens on ${broker}`;
}

/** Whether something answers at a TCP address. */
function answers(host: string, at: number): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const socket = connect({ host, port: at, timeout: CONNECT_MS });
  socket.on("connect", () => resolve(undefined));
  socket.on("error", (error) => resolve(error.message));
  socket.on("timeout", () => resolve("no answer in time"));
  return promise.finally(() => socket.destroy());
}

async function port(broker: LoadedConfig["config"]["broker"]): Promise<Finding> {
  if (!broker.enabled) return good("broker", "off (broker.enabled)");
  const free = (await answers(broker.host, broker.port)) !== undefined;
  if (free) return good("broker", `port ${broker.port} is free`);
  return warn(
    "broker",
    `port ${broker.port} is taken by another program`,
    "stop that one, or set broker.port in weir.yaml",
  );
}

async function httpPort({ enabled, host, port: at }: LoadedConfig["config"]["http"]): Promise<Finding> {
  if (!enabled) return good("http", "off (http.enabled)");
  if (at === 0 || (await answers(host, at)) !== undefined) return good("http", `port ${at} is free`);
  return warn(
    "http",
    `port ${at} is taken by another program`,
    "stop that one, or set http.port in weir.yaml",
  );
}

const DEFAULT_PORTS: Readonly<Record<string, number>> = { "mqtts:": 8883, "ws:": 80, "wss:": 443 };

async function reach(name: string, url: string): Promise<Finding> {
  if (url === "embedded") return good(`uplink ${name}`, "the embedded broker");
  const { hostname, port: given, protocol } = new URL(url);
  const problem = await answers(hostname, Number(given) || (DEFAULT_PORTS[protocol] ?? 1883));
  // Credentials and certificates are the running agent's to try.
  if (problem === undefined) return good(`uplink ${name}`, `something answers at ${url}`);
  return warn(`uplink ${name}`, `${url}: ${problem}`, `${brokerRemedy(problem)}; batches wait in the outbox`);
}

/** Starts an empty program in the jail, to see which layers stand here. */
async function jail(): Promise<Finding[]> {
  try {
    findLauncher();
  } catch (thrown) {
    return [warn("jail", `plugins stay off: ${messageOf(thrown)}`, "everything else runs")];
  }
  const script = join(import.meta.dirname, "plugins", `jail-probe${extname(import.meta.filename)}`);
  const { child, layers } = spawnJailed({
    script,
    readPaths: [],
    pipes: 0,
    memoryMiB: 256,
    allowWorker: false,
  });
  const exited = new Promise<number | null>((resolve) => {
    child.once("exit", resolve);
    child.once("error", () => resolve(null));
  });
  const report = await layers;
  const code = await exited;
  const walls = Object.entries(componentWalls(DEFAULT_LIMITS)).map(([name, state]) =>
    good(`plugin: ${name}`, state),
  );
  const findings = jailLayers.map((layer) => {
    const state = report[layer];
    if (state === "on") return good(`jail: ${layer}`, "on");
    const reason = state.replace(/^\w+: /, "");
    return warn(`jail: ${layer}`, state, remedyFor(reason));
  });
  if (code !== 0)
    findings.push(
      bad(
        "jail",
        `a program in it ended with ${code}`,
        "plugins can't run here: please report this with `weir check --json`",
      ),
    );
  return [...walls, ...findings];
}

function remedyFor(reason: string): string {
  if (/root|privilege|EPERM|not permitted|permission denied|another uid/i.test(reason)) {
    return process.geteuid?.() === 0
      ? "run Weir on the machine itself, not in a container or chroot; the other layers stand"
      : "start Weir as root, which can give plugins a user of their own; the other layers stand";
  }
  if (/kernel|ABI|ENOSYS/.test(reason)) return "a newer kernel has it; the other layers stand";
  return existsSync("/.dockerenv") || readCgroup().includes("docker")
    ? "run Weir on the machine itself, not in a container"
    : "the other layers stand";
}

function readCgroup(): string {
  try {
    return readFileSync("/proc/self/cgroup", "utf8");
  } catch {
    return "";
  }
}
