/** The consumer library as people get it: packed, installed by npm into an empty project, imported by its name. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crc32c as native } from "../../src/addon/index.ts";
import { crc32c } from "../../src/consume/crc32c.ts";
import { Kind, Status } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { encodeBatch } from "../../src/uplink/wire.ts";
import { hasProgram } from "../helpers/agent.ts";

test("its checksum is the addon's", () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 31) & 255);
  for (const length of [0, 1, 7, 8, 9, 1000])
    expect(crc32c(bytes.subarray(0, length))).toBe(native(bytes.subarray(0, length)));
});

describe.skipIf(!hasProgram("npm"))("weir-consume (needs npm)", () => {
  const dir = mkdtempSync(join(tmpdir(), "weir-consume-"));
  const run = (command: string, ...args: string[]): string => {
    const done = spawnSync(command, args, { cwd: dir, encoding: "utf8" });
    if (done.status !== 0) throw new Error(`${command}: ${done.stdout}${done.stderr}`);
    return done.stdout;
  };
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  beforeAll(() => {
    writeFileSync(join(dir, "package.json"), '{"name":"mine","private":true,"type":"module"}');
    const packed = spawnSync("node", ["scripts/pack-consume.mjs", dir], { encoding: "utf8" });
    if (packed.status !== 0) throw new Error(packed.stderr);
    run(
      "npm",
      "install",
      "--offline",
      "--no-audit",
      "--no-fund",
      packed.stdout.trim().split("/").at(-1) ?? "",
    );
  }, 120_000);

  test("reads every encoding and compression, takes each batch once, and tells what is missing", () => {
    const builder = new FrameBuilder();
    const [pump, temp, note] = [builder.device("pump-1"), builder.metric("temp_c"), builder.metric("note")];
    const late = Status.stale | Status.historical | Status.clockUnsynchronised;
    builder.add(pump, temp, 1_763_640_000_000_500, Kind.number, late, 71.25);
    builder.add(pump, note, 1_763_640_000_000_500, Kind.text, late, builder.text("warm"));
    const frame = builder.build();
    const payloads = (["json", "block"] as const).flatMap((encoding) =>
      (["none", "gzip", "zstd"] as const).map((compression, i) => {
        const key = { epoch: "0000000a", stream: "data" as const, seq: 10 * i, span: 2 };
        const bytes = encodeBatch("gw", key, [frame], { encoding, compression }, native);
        return Buffer.from(bytes ?? []).toString("base64");
      }),
    );
    writeFileSync(
      join(dir, "read.js"),
      `import { Deduper, readBatch, readGap } from "weir-consume";
const seen = new Deduper();
const batches = ${JSON.stringify(payloads)}.map((text) => readBatch(Buffer.from(text, "base64")));
const verdicts = batches.map((batch) => seen.take(batch));
seen.take(readGap(Buffer.from('{"v":1,"gateway":"gw","epoch":"0000000a","stream":"data","from":2,"to":9,"reason":"ttl"}')));
console.log(JSON.stringify({ samples: batches.map(({ samples }) => samples), verdicts, holes: seen.holes() }));`,
    );
    const { samples, verdicts, holes } = JSON.parse(run(process.execPath, "read.js"));
    const values = { temp_c: 71.25, note: "warm" };
    const sample = {
      device: "pump-1",
      ts: 1_763_640_000_000.5,
      q: "stale",
      hist: true,
      clk: "unsync",
      values,
    };
    expect(samples).toEqual(payloads.map(() => [sample]));
    expect(verdicts).toEqual(["new", "new", "new", "duplicate", "duplicate", "duplicate"]);
    expect(holes).toEqual([{ gateway: "gw", epoch: "0000000a", stream: "data", from: 12, to: 19 }]);
  });

  test("has types, and its page's example is valid", () => {
    const example = readFileSync("docs/weir-consume.md", "utf8").match(/^```js\n(.*?)^```$/ms)?.[1] ?? "";
    const mqtt = "declare module 'mqtt' { const mqtt: any; export default mqtt; }";
    writeFileSync(join(dir, "mqtt.d.ts"), mqtt);
    writeFileSync(
      join(dir, "example.ts"),
      example.replace("(_topic, payload)", "(_topic: string, payload: Uint8Array)"),
    );
    const flags = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2024", "--types", ""];
    run(resolve("node_modules/.bin/tsc"), ...flags, "mqtt.d.ts", "example.ts");
  });
});
