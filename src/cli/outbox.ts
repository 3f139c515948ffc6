/** `weir outbox ls|export|purge` */
import { once } from "node:events";
import { WeirError } from "../core/errors.ts";
import { formatSize, parseDuration } from "../core/units.ts";
import { exportOutbox } from "../outbox-tools.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, chosenConfigOf, streamOf } from "./context.ts";
import { option } from "./option.ts";
import { dim, line, printJson, table, yellow } from "./output.ts";

/** `weir outbox ls` */
export async function ls(invocation: Invocation): Promise<number> {
  const report = await agentOf(invocation).outbox();
  if (invocation.values["json"] === true) {
    printJson(report);
    return 0;
  }
  const { fileBytes, usedBytes, full, counts, quarantined } = report;
  line(dim(`${formatSize(usedBytes)} used of a file of ${formatSize(fileBytes)}${full ? ", full" : ""}`));
  if (quarantined !== undefined) line(yellow(`a damaged database was set aside: ${quarantined}`));
  table(
    ["UPLINK", "STREAM", "COMMITTED", "ACKED", "DROPPED", "REJECTED", "LOST", "HELD"],
    counts.map(({ uplink, stream, committed, acked, dropped, rejected, lost, held }) => [
      uplink,
      stream,
      ...[committed, acked, dropped, rejected, lost, held].map(String),
    ]),
    new Set(["COMMITTED", "ACKED", "DROPPED", "REJECTED", "LOST", "HELD"]),
  );
  return 0;
}

/** `weir outbox export`: to standard output, from the database itself; exit code 1 when damaged chunks were left out. */
export async function exportAll(invocation: Invocation): Promise<number> {
  const format = option(invocation, "format") ?? "ndjson";
  if (format !== "ndjson" && format !== "block")
    throw new WeirError("cli.usage", `--format takes ndjson or block, not ${format}`);
  const pieces = exportOutbox(
    chosenConfigOf(invocation).loaded.config.data.dir,
    streamOf(invocation),
    format,
    invocation.values["rejected"] === true ? "rejected" : "waiting",
  );
  for (;;) {
    const { done, value } = pieces.next();
    if (done === true) {
      if (value > 0) process.stderr.write(`${value} damaged chunks left out\n`);
      return value > 0 ? 1 : 0;
    }
    if (!process.stdout.write(value)) await once(process.stdout, "drain");
  }
}

/** `weir outbox purge` */
export async function purge(invocation: Invocation): Promise<number> {
  const age = option(invocation, "older-than");
  const olderThanMs = age === undefined ? 0 : parseDuration(age);
  if (olderThanMs === undefined)
    throw new WeirError("cli.usage", `--older-than takes a time such as 12h, not ${age}`);
  const uplink = option(invocation, "uplink");
  const stream = streamOf(invocation);
  if (uplink === undefined && stream === undefined && age === undefined && invocation.values["all"] !== true)
    throw new WeirError("cli.usage", "say what: --uplink, --stream, --older-than, or --all");
  const agent = agentOf(invocation);
  const uplinks = [...new Set((await agent.outbox()).counts.map((one) => one.uplink))];
  if (uplink !== undefined && !uplinks.includes(uplink))
    throw new WeirError("cli.usage", `no uplink ${uplink}; there are ${uplinks.join(", ")}`);
  const dropped = await agent.purge({ uplink, stream, olderThanMs });
  if (invocation.values["json"] === true) printJson({ dropped });
  else line(`${dropped} samples dropped (each counts at every uplink that held it)`);
  return 0;
}
