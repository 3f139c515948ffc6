/**
 * Decoding of device messages: `node bench/decode.bench.ts`. Each line stands beside bare JSON.parse of the same bytes in
 * the same run: that much of the time is the engine's. Then the kernel's process events, which become 5 or 7 rows each.
 */
import { RECORD_BYTES } from "../src/addon/index.ts";
import { FrameBuilder } from "../src/core/frame-builder.ts";
import type { DeviceMessage } from "../src/core/ports.ts";
import { DeviceDecoder } from "../src/sources/decode.ts";
import { ProcessEvents } from "../src/sources/kernel-process.ts";
import { Field } from "../src/sources/kernel-rows.ts";
import { deviceRuleSchema } from "../src/sources/options.ts";

const MESSAGES = 2_000;
const ROUNDS = 300;

const payloads = {
  "flat, 6 values, 100 B": (i: number) =>
    `{"temp_c":${(20 + (i % 700) / 100).toFixed(2)},"rpm":${1400 + (i % 90)},"vib":0.0${(i % 90) + 10},"amp":${(i % 77) / 10},"ok":true,"state":"run","n":${i % 1000}}`,
  "nested, 12 values": (i: number) =>
    `{"state":{"power":${i % 2 === 0},"level":${i % 100}},"color":{"x":0.${i % 1000},"y":0.31},"linkquality":${i % 255},"battery":93,"phases":[${i % 230},231,229],"update":{"state":"idle","installed":33},"action":null}`,
  "plain number": (i: number) => `${(i % 900) / 10}`,
};

const decoder = new DeviceDecoder([deviceRuleSchema.parse({ topic: "devices/{device}/{channel}" })]);

console.log(
  `${"payload".padEnd(24)} bytes  samples  decode ns/message  ns/sample  JSON.parse ns/message  ratio`,
);
for (const [name, make] of Object.entries(payloads)) {
  const messages = Array.from({ length: MESSAGES }, (_, i): DeviceMessage => {
    const device = `pump-${i % 50}`;
    const topic = `devices/${device}/telemetry`;
    const route = { device, channel: "telemetry", plugin: undefined, rule: 0 };
    const payload = Buffer.from(make(i));
    return { topic, route, payload, timeUs: i, qos: 1, retained: false, settle: undefined };
  });
  const builder = new FrameBuilder(4096);
  let samples = 0;
  const decode = (): void => {
    for (const message of messages) {
      const problem = decoder.decode(message, builder);
      if (problem !== undefined) throw new Error(problem);
      if (builder.rows >= 2048) samples += builder.build().rows;
    }
  };
  let sum = 0;
  const bare = (): void => {
    for (const { payload } of messages) if (JSON.parse(payload.toString()) !== null) sum += 1;
  };
  const time = (work: () => void): number => {
    for (let i = 0; i < ROUNDS / 10; i++) work();
    const from = process.hrtime.bigint();
    for (let i = 0; i < ROUNDS; i++) work();
    return Number(process.hrtime.bigint() - from) / (ROUNDS * MESSAGES);
  };
  const bareNs = time(bare);
  samples = 0;
  const decodeNs = time(decode);
  const perMessage = samples / (MESSAGES * ROUNDS * 1.1);
  const bytes = messages.reduce((total, { payload }) => total + payload.byteLength, 0) / MESSAGES;
  console.log(
    `${name.padEnd(24)} ${bytes.toFixed(0).padStart(5)} ${perMessage.toFixed(1).padStart(8)} ${decodeNs.toFixed(0).padStart(18)} ${(decodeNs / perMessage).toFixed(0).padStart(10)} ${bareNs.toFixed(0).padStart(22)} ${(decodeNs / bareNs).toFixed(2).padStart(6)}`,
  );
  if (sum === 0) throw new Error("nothing was parsed");
}

const events = new ProcessEvents();
/** A frame of so many process events, as often as there is time for; its memory is freed at once, as the agent does. */
function processEvents(count: number, rounds: number): void {
  const records = Buffer.from(events.records.buffer, events.records.byteOffset, events.records.byteLength);
  for (let i = 0; i < count; i++) {
    const at = i * RECORD_BYTES;
    records.writeBigUInt64LE(BigInt(i) * 1_000_000n, at + Field.time);
    records.writeUInt32LE(1 + (i % 2), at + Field.kind);
    records.writeUInt32LE(1000 + i, at + Field.pid);
    records.write(["sh", "node", "true", "grep", "sed", "cat"][i % 6] ?? "", at + Field.comm);
  }
  const best = (free: boolean): number => {
    let least = Number.POSITIVE_INFINITY;
    for (let round = 0; round < rounds; round++) {
      const from = process.hrtime.bigint();
      const { buffer } = events.frame(count, round);
      least = Math.min(least, Number(process.hrtime.bigint() - from));
      if (free) buffer.transfer(0);
    }
    return least / count;
  };
  const rows = events.frame(count, 0).rows / count;
  console.log(
    `process events, ${rows.toFixed(1)} rows each, ${count} in a frame, the best of ${rounds}: ${best(true).toFixed(1)} ns an event; ${best(false).toFixed(1)} when frames wait for the collector`,
  );
}
processEvents(290, 30 * ROUNDS); // with their rows, what a chunk holds
processEvents(4, 300 * ROUNDS);
