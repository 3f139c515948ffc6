/** `weir tail`: subscribes to the agent's broker and prints what subscribers get. */
import { readFileSync } from "node:fs";
import mqtt from "mqtt";
import { batchIn } from "../batch-tools.ts";
import { Deduper } from "../consume/dedupe.ts";
import { readGap } from "../consume/gap.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import { type Matcher, matcher } from "../core/glob.ts";
import type { Stream } from "../core/ports.ts";
import type { Invocation } from "./commands.ts";
import { agentOf, streamOf } from "./context.ts";
import { option } from "./option.ts";
import { bold, dim, jsonText, line, note, printable, yellow } from "./output.ts";

/** How often `--rejected` asks for news, in milliseconds. */
const REJECTED_EVERY_MS = 1_000;

/** `weir tail [topic]` */
export async function tail(invocation: Invocation): Promise<number> {
  const limit = option(invocation, "count");
  const most = limit === undefined ? Number.POSITIVE_INFINITY : Number(limit);
  if (!(most > 0)) throw new WeirError("cli.usage", `--count takes a number greater than 0, not ${limit}`);
  const controller = new AbortController();
  process.once("SIGINT", () => controller.abort());
  process.once("SIGTERM", () => controller.abort());
  let left = most;
  const print = (text: string): void => {
    if (left <= 0) return;
    line(text);
    left -= 1;
    if (left <= 0) controller.abort();
  };
  const json = invocation.values["json"] === true;
  if (invocation.values["rejected"] === true)
    return await tailRejected(invocation, json, print, controller.signal);
  return await tailTopic(invocation, json, print, controller.signal);
}

async function tailTopic(
  invocation: Invocation,
  json: boolean,
  print: (text: string) => void,
  signal: AbortSignal,
): Promise<number> {
  const status = await agentOf(invocation).status();
  if (status.broker === undefined) {
    const why = status.parts.find(({ name }) => name === "broker")?.reason ?? "off in its configuration";
    throw new WeirError(
      "uplink.unavailable",
      `the agent runs without its embedded broker (${why}): subscribe at an uplink's broker instead`,
    );
  }
  const [topic] = invocation.positionals;
  const topics = topic === undefined ? [...status.topics] : [topic];
  const filter = filterOf(invocation);
  const client = mqtt.connect(`mqtt://${status.broker}`, { reconnectPeriod: 0, ...loginOf(invocation) });
  const ended = Promise.withResolvers<void>();
  const deduper = invocation.values["dedupe"] === true ? new Deduper() : undefined;
  client.on("message", (topic, payload) => {
    if (deduper === undefined || isNew(payload, deduper)) show(topic, payload, filter, json, print);
  });
  client.on("error", (error) => ended.reject(isRefusal(error) ? notLetIn(error) : error));
  client.on("close", () =>
    ended.reject(
      new WeirError("uplink.unavailable", "the broker closed the connection: the agent has stopped"),
    ),
  );
  signal.addEventListener("abort", () => ended.resolve());
  try {
    client.on("connect", () => {
      client.subscribe(topics, { qos: 0 }, (error) => {
        if (error) ended.reject(Reflect.has(error, "packet") ? notLetIn(error) : error);
        else note(`listening to ${topics.join(", ")}; Ctrl-C ends`);
      });
    });
    await ended.promise;
    return 0;
  } finally {
    client.removeAllListeners("close");
    client.end(true);
  }
}

/** Name and password for a broker that wants them. */
function loginOf(invocation: Invocation): { username?: string; password?: string } {
  const [username, file] = [option(invocation, "username"), option(invocation, "password-file")];
  if (username === undefined) return {};
  if (file === undefined) return { username };
  try {
    return { username, password: readFileSync(file, "utf8").split(/\r?\n/)[0] ?? "" };
  } catch (thrown) {
    throw new WeirError("cli.usage", `--password-file ${file}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

/** A CONNACK for a name or password that is not good, or for nobody's (MQTT 3.1.1, 3.2.2.3). */
const isRefusal = (error: Error): boolean => [4, 5].includes(Number(Reflect.get(error, "code")));

const notLetIn = (cause: Error): WeirError =>
  new WeirError(
    "cli.usage",
    "the broker lets in its identities alone, or this one may not subscribe to these topics: name one that may with --username and --password-file",
    { cause },
  );

/** Whether a message is to be shown: false for a batch that came before. Says where batches overlap. */
function isNew(payload: Buffer, deduper: Deduper): boolean {
  const span = batchIn(payload) ?? readGap(payload);
  if (span === undefined) return true;
  try {
    const verdict = deduper.take(span);
    if (verdict === "overlap")
      note(`numbers that came before: ${printable(span.stream)} ${span.seq} + ${span.span}`);
    return verdict !== "duplicate";
  } catch {
    return true;
  }
}

/** What is shown of batches; with any of it, other messages are not. */
interface Filter {
  readonly any: boolean;
  readonly stream: Stream | undefined;
  readonly device: Matcher;
  readonly metric: Matcher;
}

/** Comma-separated patterns, as of `--device 'press-*'`; without any, every name is meant. */
const nameFilter = (patterns = "*"): Matcher => matcher(patterns.split(","));

function filterOf(invocation: Invocation): Filter {
  const stream = streamOf(invocation);
  const [device, metric] = ["device", "metric"].map((name) => option(invocation, name));
  return {
    any: [stream, device, metric].some((one) => one !== undefined),
    stream,
    device: nameFilter(device),
    metric: nameFilter(metric),
  };
}

function show(
  topic: string,
  payload: Buffer,
  filter: Filter,
  json: boolean,
  print: (text: string) => void,
): void {
  const batch = batchIn(payload);
  if (batch === undefined) {
    if (filter.any) return;
    const text = payload.toString("utf8");
    print(json ? jsonText({ topic, payload: text }) : `${dim(printable(topic))} ${printable(text)}`);
    return;
  }
  if (filter.stream !== undefined && batch.stream !== filter.stream) return;
  for (const whole of batch.samples) {
    const chosen = Object.entries(whole.values).filter(([name]) => filter.metric(name));
    if (chosen.length === 0 || !filter.device(whole.device)) continue;
    const sample = { ...whole, values: Object.fromEntries(chosen) };
    if (json) {
      const { stream, epoch, seq } = batch;
      print(jsonText({ stream, epoch, seq, ...sample }));
      continue;
    }
    const values = Object.entries(sample.values).map(
      ([name, value]) => `${printable(name)}=${bold(printable(shown(value)))}`,
    );
    const quality = sample.q === undefined ? "" : ` ${yellow(printable(sample.q))}`;
    print(
      `${dim(clockOf(sample.ts))} ${dim(batch.stream.padEnd(5))} ${printable(sample.device)}${quality} ${values.join(" ")}`,
    );
  }
}

/** The time of day of milliseconds since the Unix epoch; what is no such time as it stands. */
function clockOf(ts: unknown): string {
  const date = new Date(typeof ts === "number" ? ts : Number.NaN);
  return Number.isNaN(date.getTime()) ? printable(String(ts)) : date.toISOString().slice(11, 23);
}

const shown = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));

async function tailRejected(
  invocation: Invocation,
  json: boolean,
  print: (text: string) => void,
  signal: AbortSignal,
): Promise<number> {
  const agent = agentOf(invocation);
  let after = "";
  while (!signal.aborted) {
    const entries = await agent.rejected();
    // The log has no numbers: what follows the last entry shown is new, and all of it once that one has left.
    const texts = entries.map((entry) => JSON.stringify(entry));
    const fresh = entries.slice(texts.lastIndexOf(after) + 1);
    after = texts.at(-1) ?? after;
    for (const entry of fresh) print(json ? jsonText(entry) : readableEntry(entry));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, REJECTED_EVERY_MS);
      signal.addEventListener(
        "abort",
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    });
  }
  return 0;
}

function readableEntry(entry: Readonly<Record<string, unknown>>): string {
  const { ts, topic, reason, bytes, payload } = entry;
  return `${dim(clockOf(ts))} ${printable(String(topic))} ${yellow(printable(String(reason)))} ${dim(`(${String(bytes)} bytes)`)} ${printable(String(payload))}`;
}
