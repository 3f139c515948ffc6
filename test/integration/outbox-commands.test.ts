/** `weir outbox ls|export|purge`, beside a running agent and without one. */
import { spawnSync } from "node:child_process";
import { join, resolve } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crc32c } from "../../src/addon/index.ts";
import { readBlock } from "../../src/core/block.ts";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";

const MESSAGES = 50;
let folder: AgentFolder;
let agent: Agent;

beforeAll(async () => {
  folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    broker: { port: 0 },
    uplinks: { a: { url: "mqtt://127.0.0.1:1", streams: ["data"] }, b: { url: "mqtt://127.0.0.1:1" } },
  });
  agent = await Agent.start(folder);
  const device = await agent.client();
  for (let n = 0; n < MESSAGES; n++)
    await device.publishAsync("devices/pump-1/t", JSON.stringify({ n }), { qos: 1 });
  await device.endAsync();
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

const outbox = (...args: readonly string[]): ReturnType<typeof weir> =>
  weir("outbox", ...args, "--config", folder.config);
const numbers = Array.from({ length: MESSAGES }, (_, n) => n);

/** The exported samples, as lines say them. */
function exported(...args: readonly string[]): unknown[] {
  const { status, stdout, stderr } = outbox("export", ...args);
  expect([status, stderr]).toEqual([0, ""]);
  return stdout
    .trimEnd()
    .split("\n")
    .filter((text) => text !== "")
    .map((text) => JSON.parse(text));
}

describe("beside a running agent", () => {
  test("ls shows what each uplink holds, as a table and as JSON", () => {
    const { counts } = JSON.parse(outbox("ls", "--json").stdout);
    expect(counts).toContainEqual(expect.objectContaining({ uplink: "a", stream: "data", held: MESSAGES }));
    expect(outbox("ls").stdout).toMatch(new RegExp(`b +data +${MESSAGES} .* ${MESSAGES}\\n`));
  });

  test("export writes a sample a line with its key, of one stream or of all", () => {
    const epochs = new Set<unknown>();
    const samples = exported("--stream", "data").map((sample) => {
      const { epoch, stream, device, values } = sample as Record<string, { readonly n: number }>;
      epochs.add(epoch);
      expect([stream, device]).toEqual(["data", "pump-1"]);
      return values?.n;
    });
    expect(samples).toEqual(numbers);
    expect(epochs.size).toBe(1);
    expect(exported("--stream", "host")).toEqual([]);
    expect(exported("--rejected")).toEqual([]);
    expect(exported().length).toBeGreaterThanOrEqual(MESSAGES);
  });

  test("export writes blocks, one after the other, each with its length", () => {
    const done = spawnSync(resolve("bin/weir"), [
      "outbox",
      "export",
      "--format",
      "block",
      "--stream",
      "data",
      "--config",
      folder.config,
    ]);
    const values: number[] = [];
    for (let at = 0; at < done.stdout.length; ) {
      // docs/specs/frame.md: the length stands at byte 8.
      const length = done.stdout.readUInt32LE(at + 8);
      values.push(...readBlock(new Uint8Array(done.stdout.subarray(at, at + length)), crc32c).value);
      at += length;
    }
    expect(values).toEqual(numbers);
  });

  test("purge wants to be told what, and drops that alone", () => {
    expect(outbox("purge")).toMatchObject({ status: 2 });
    expect(outbox("purge", "--uplink", "c")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("a, b"),
    });
    expect(outbox("purge", "--uplink", "a", "--older-than", "soon")).toMatchObject({ status: 2 });
    expect(JSON.parse(outbox("purge", "--uplink", "a", "--older-than", "1h", "--json").stdout)).toEqual({
      dropped: 0,
    });
    expect(JSON.parse(outbox("purge", "--uplink", "a", "--json").stdout)).toEqual({ dropped: MESSAGES });
    const { counts } = JSON.parse(outbox("ls", "--json").stdout);
    expect(counts).toContainEqual(
      expect.objectContaining({ uplink: "a", stream: "data", held: 0, dropped: MESSAGES }),
    );
    expect(counts).toContainEqual(expect.objectContaining({ uplink: "b", stream: "data", held: MESSAGES }));
    expect(outbox("export", "--format", "xml")).toMatchObject({ status: 2 });
    expect(outbox("export", "--stream", "none")).toMatchObject({ status: 2 });
  });
});

describe("without an agent", () => {
  test("ls says that none answers; export reads on, leaves out what is damaged, and says so", async () => {
    await agent.stop();
    expect(outbox("ls")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("cli.agent-unreachable"),
    });
    expect(exported("--stream", "data")).toHaveLength(MESSAGES);
    const db = new Database(join(folder.dir, "data", "weir.db"));
    db.prepare(
      "UPDATE chunk SET block = zeroblob(20) WHERE id = (SELECT max(id) FROM chunk WHERE stream = 'data')",
    ).run();
    db.close();
    const { status, stdout, stderr } = outbox("export", "--stream", "data");
    expect([status, stderr]).toEqual([1, "1 damaged chunks left out\n"]);
    expect(stdout.split("\n").length).toBeLessThanOrEqual(MESSAGES);
  });
});
