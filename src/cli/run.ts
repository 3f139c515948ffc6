/** `weir run`: the agent in the foreground, until SIGINT or SIGTERM. */

import { setFlagsFromString } from "node:v8";
import type { AgentStatus } from "../api/types.ts";
import { inDataDir } from "../config/data-dir.ts";
import { refuseWithout } from "../config/last-good.ts";
import type { LoadedConfig } from "../config/load.ts";
import { mainFilePlaces } from "../config/main-file.ts";
import type { Config } from "../config/schema.ts";
import { WeirError } from "../core/errors.ts";
import { startFirstOutboxThread } from "../outbox-start.ts";
import { Reader } from "../reader.ts";
import type { Invocation } from "./commands.ts";
import { option } from "./option.ts";
import { bold, dim, line, yellow } from "./output.ts";
import { version } from "./version.ts";

/**
 * A heap that may grow by half before it is collected: by V8's own measure it has several times what is in use. Costs two more
 * collections of 5 ms in a million messages, and saves 40 MiB at full rate, 60 while a million devices come once each.
 */
const HEAP_GROWTH = "--heap-growing-percent";
const HEAP_GROWTH_PERCENT = 50;
const LEVELS = ["trace", "debug", "info", "warn", "error"];
/** A stop that hangs is ended: whatever was acknowledged is on disk. */
const MOST_STOP_MS = 9_500;

/** `weir run` */
export async function run(invocation: Invocation): Promise<number> {
  const level = option(invocation, "log-level") ?? "info";
  if (!LEVELS.includes(level)) throw new WeirError("cli.usage", `--log-level takes ${LEVELS.join(", ")}`);
  const [named, dataDir] = [option(invocation, "config"), option(invocation, "data-dir")];
  const reader = new Reader();
  const choosing = reader.chosen(named, dataDir);
  // Meanwhile, the rest of the code, the outbox's in its thread.
  const outboxThread = startFirstOutboxThread();
  const [{ loaded: chosen, fallback }, { Agent }, { ConfigWatch }] = await Promise.all([
    choosing,
    import("../main.ts"),
    import("../reload.ts"),
  ]);
  const loaded = inDataDir(chosen, dataDir);
  refuseWithout(loaded);
  const log = { level, terminal: process.stderr.isTTY === true };
  // A file that counted once and is gone is an error: without it uplinks would go, and with them what they hold.
  let { file } = loaded;
  const load = async ({ plugins }: Config): Promise<LoadedConfig> => {
    const next = inDataDir(await reader.loaded(named ?? file, plugins), dataDir);
    file = next.file;
    return next;
  };
  const agent = new Agent(loaded, version(), log, reader, load, outboxThread);
  // What is refused is in the log, and in the answer of `weir reload`.
  const reload = (): void => void agent.reload().catch(() => {});
  // Without a file, the first one that appears counts.
  const watch = new ConfigWatch(() => (file === undefined ? mainFilePlaces() : agent.configFiles), reload);
  // Who changes a file while the agent starts is not to be missed.
  watch.remember();
  const stopped = Promise.withResolvers<string>();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => stopped.resolve(signal));

  try {
    if (fallback !== undefined) agent.log.error(fallback);
    await agent.start();
  } catch (thrown) {
    await agent.stop();
    throw thrown;
  }
  greet(agent.status(), fallback === undefined ? loaded.file : "the last good configuration");
  if (fallback === undefined) agent.keepConfig();
  // On the command line only where memory is scarce: it costs a start 20 ms (bin/weir).
  if (!process.execArgv.some((flag) => flag.startsWith(HEAP_GROWTH)))
    setFlagsFromString(`${HEAP_GROWTH}=${HEAP_GROWTH_PERCENT}`);
  watch.start();
  process.on("SIGHUP", reload);
  const why = await Promise.race([stopped.promise, agent.failed]);
  watch.stop();
  setTimeout(() => process.exit(1), MOST_STOP_MS).unref();
  agent.log.info(why instanceof WeirError ? "stopping" : `${why}: stopping`);
  const clean = await agent.stop();
  if (why instanceof WeirError) throw why;
  agent.log.info(
    clean
      ? "stopped: everything taken in is committed"
      : "stopped: what was not acknowledged will be sent again by its devices",
  );
  return 0;
}

/** What a newcomer needs to know, on standard output. */
function greet(status: AgentStatus, file: string | undefined): void {
  line(
    `${bold("weir is ready")} ${dim(`${status.version}, gateway ${status.gateway}, epoch ${status.epoch}, data in ${status.dataDir}, ${file ?? "no configuration file"}`)}`,
  );
  for (const part of status.parts) {
    if (part.state === "on" || part.state === "off") continue;
    line(`  ${yellow("without")} ${part.name}: ${part.reason ?? part.state}`);
    if (part.remedy !== undefined) line(dim(`          ${part.remedy}`));
  }
  // Hints are for somebody who reads them now, not for a journal.
  if (!process.stdout.isTTY) return;
  // From a clone, which runs the sources, the command is on nobody's path.
  const weir = import.meta.filename.endsWith(".ts") ? "npx weir" : "weir";
  if (status.broker === undefined) {
    line(`  see what it does:  ${weir} ledger`);
    return;
  }
  const [host = "", port = ""] = [
    status.broker.slice(0, status.broker.lastIndexOf(":")),
    status.broker.slice(status.broker.lastIndexOf(":") + 1),
  ];
  const at = `${host === "127.0.0.1" ? "" : ` -h ${host}`}${port === "1883" ? "" : ` -p ${port}`}`;
  const message = `'{"temp_c":71.2,"rpm":1480}'`;
  line(`  subscribe:         ${weir} tail${dim("  or  ")}mosquitto_sub${at} -t 'weir/#' -v`);
  line(`  be a device:       mosquitto_pub${at} -q 1 -t devices/pump-1/telemetry -m ${message}`);
  line(`  through a plugin:  mosquitto_pub${at} -q 1 -t devices/demo-1/telemetry -m ${message}`);
  line(`  see every loss:    ${weir} ledger`);
  line(`  see what lacks:    ${weir} check`);
  line(dim("  Ctrl-C ends it."));
}
