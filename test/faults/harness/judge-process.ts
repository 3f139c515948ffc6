/**
 * The judge: a process of its own that knows MQTT, JSON and how stamps are made, and none of Weir's code. It subscribes to
 * what Weir publishes, drops copies by their numbers, and remembers which (device, sequence) came.
 * Arguments: broker's url, gateway. It says `ready` once it is subscribed, and then answers questions on its channel.
 */
import { createHash } from "node:crypto";
import mqtt from "mqtt";
import type { Question, Verdict } from "./judge.ts";
import { stampOf } from "./stamp.ts";

interface Device {
  readonly seen: Set<number>;
  /** newest number that came live, and from backlog */
  readonly newest: [number, number];
}

const [url = "", gateway = "gw"] = process.argv.slice(2);
const devices = new Map<string, Device>();
/** key of a batch → hash of its bytes */
const batches = new Map<string, string>();
/** epoch and stream → numbers that came: the same may come again in other batches, as where a broker takes less than the one before */
const came = new Map<string, Set<number>>();
const counts = { copies: 0, changed: 0, doubled: 0, altered: 0, disorder: 0, gapSamples: 0, historical: 0 };
const gaps = new Set<string>();

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

function onBatch(payload: Buffer): void {
  const batch: unknown = JSON.parse(payload.toString());
  if (!isRecord(batch) || !Array.isArray(batch["samples"])) return;
  const { seq, span } = batch;
  if (typeof seq !== "number" || typeof span !== "number") return;
  const lane = `${batch["epoch"]}/${batch["stream"]}`;
  const key = `${lane}/${seq}+${span}`;
  const hash = createHash("sha256").update(payload).digest("base64");
  const before = batches.get(key);
  if (before !== undefined && before !== hash) counts.changed += 1;
  batches.set(key, hash);
  let numbers = came.get(lane);
  if (numbers === undefined) {
    numbers = new Set();
    came.set(lane, numbers);
  }
  const had = numbers.size;
  for (let number = seq; number < seq + span; number++) numbers.add(number);
  if (numbers.size === had) {
    counts.copies += 1;
    return;
  }
  for (const sample of batch["samples"]) if (isRecord(sample)) onSample(sample);
}

function onSample({ device: id, values, hist }: Record<string, unknown>): void {
  if (typeof id !== "string" || !isRecord(values)) return;
  const { n, h } = values;
  if (typeof n !== "number") return;
  if (h !== stampOf(id, n)) {
    counts.altered += 1;
    return;
  }
  let device = devices.get(id);
  if (device === undefined) {
    device = { seen: new Set(), newest: [-1, -1] };
    devices.set(id, device);
  }
  if (device.seen.has(n)) {
    counts.doubled += 1;
    return;
  }
  device.seen.add(n);
  const kind = hist === undefined ? 0 : 1;
  counts.historical += kind;
  if (n < device.newest[kind]) counts.disorder += 1;
  else device.newest[kind] = n;
}

function onGap(payload: Buffer): void {
  const gap: unknown = JSON.parse(payload.toString());
  if (!isRecord(gap)) return;
  const { from, to } = gap;
  const key = `${gap["epoch"]}/${gap["stream"]}/${from}-${to}`;
  if (typeof from !== "number" || typeof to !== "number" || gap["stream"] !== "data" || gaps.has(key)) return;
  gaps.add(key);
  counts.gapSamples += to - from + 1;
}

function judge({ acknowledged, sent }: Extract<Question, { ask: "verdict" }>): Verdict {
  const missing: string[] = [];
  let missed = 0;
  let arrived = 0;
  let invented = 0;
  let owed = 0;
  for (const [id, ranges] of Object.entries(acknowledged)) {
    const seen = devices.get(id)?.seen;
    for (const [first, last] of ranges) {
      owed += last - first + 1;
      for (let n = first; n <= last; n++) {
        if (seen?.has(n) === true) continue;
        missed += 1;
        if (missing.length < 5) missing.push(`${id}/${n}`);
      }
    }
  }
  for (const [id, { seen }] of devices) {
    arrived += seen.size;
    const most = sent[id] ?? 0;
    for (const n of seen) if (n >= most) invented += 1;
  }
  return { ...counts, acknowledged: owed, arrived, invented, missing: missed, examples: missing };
}

process.on("message", (question: Question) => {
  const answer =
    question.ask === "verdict"
      ? judge(question)
      : question.ask === "has"
        ? (devices.get(question.device)?.seen.has(question.n) ?? false)
        : batches.size;
  process.send?.({ id: question.id, answer });
});
process.on("disconnect", () => process.exit(0));

const client = mqtt.connect(url, { clean: false, clientId: `judge-${process.pid}`, reconnectPeriod: 200 });
client.on("error", () => {});
client.on("message", (topic, payload) => (topic.endsWith("/gap") ? onGap(payload) : onBatch(payload)));
client.once("connect", () => {
  void client
    .subscribeAsync([`weir/v1/${gateway}/data`, `weir/v1/${gateway}/gap`], { qos: 1 })
    .then(() => process.send?.({ id: 0, answer: "ready" }));
});
