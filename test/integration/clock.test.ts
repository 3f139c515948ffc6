/** A gateway that boots with a wrong clock, as a board without a battery does. */
import { copyFileSync, globSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder } from "../helpers/agent.ts";
import { fixture } from "../helpers/lane.ts";
import { until } from "../helpers/until.ts";

interface Sample {
  readonly ts: number;
  readonly clk?: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** Its library alone: its command would stay as a parent, and take the signal for the agent. */
const [library = ""] = globSync("/usr/lib/*/faketime/libfaketimeMT.so.1");
const able = library !== "";
const wrongClock = ["env", `LD_PRELOAD=${library}`, "FAKETIME=-400d"];

describe.skipIf(!able)(`a wrong clock${able ? "" : " (lacking faketime)"}`, () => {
  const folder = new AgentFolder({
    sources: {
      kernel: { enabled: false },
      system: { enabled: false },
      devices: [{ topic: "raw/{device}", decoder: "decoder" }, { preset: "plain" }],
    },
    uplinks: { local: { url: "embedded", batch: { ageMs: 20 } } },
  });
  afterAll(() => folder.remove());

  const plugin = join(folder.dir, "plugins", "decoder");
  mkdirSync(plugin, { recursive: true });
  copyFileSync(resolve(fixture("decoder")), join(plugin, "decoder.wasm"));
  writeFileSync(join(plugin, "plugin.yaml"), "name: decoder\nversion: '1'\ncomponent: decoder.wasm\n");

  /** Runs an agent, sends two messages, one for a decoder plugin, and gives their samples. */
  async function one(n: number, wrap: readonly string[] = []): Promise<[Sample, Sample]> {
    const agent = await Agent.start(folder, wrap);
    try {
      const client = await agent.client();
      let plain: Sample | undefined;
      let decoded: Sample | undefined;
      client.on("message", (_topic, payload) => {
        const batch: { samples: Sample[] } = JSON.parse(payload.toString());
        plain = batch.samples.find(({ values }) => values["n"] === n) ?? plain;
        decoded = batch.samples.find(({ values }) => values["v0"] === n) ?? decoded;
      });
      await client.subscribeAsync("weir/v1/gw/data", { qos: 1 });
      await client.publishAsync("devices/d/t", `{"n":${n}}`, { qos: 1 });
      await client.publishAsync("raw/d", Buffer.from(Float64Array.of(n).buffer), { qos: 1 });
      const found: [Sample, Sample] = [
        await until("the sample", () => plain),
        await until("the plugin's sample", () => decoded),
      ];
      await client.endAsync(true);
      expect(found[1].clk).toBe(found[0].clk);
      expect(Math.abs(found[1].ts - found[0].ts)).toBeLessThan(60_000);
      return found;
    } finally {
      await agent.stop();
    }
  }

  test("400 days back: time goes on from the last known, flagged, a plugin's rows too; later samples are right again", async () => {
    const [first] = await one(1);
    expect(first.clk).toBeUndefined();
    expect(Math.abs(first.ts - Date.now())).toBeLessThan(60_000);

    const [wrong] = await one(2, wrongClock);
    expect(wrong.clk).toBe("unsync");
    expect(wrong.ts).toBeGreaterThan(first.ts);
    expect(wrong.ts).toBeLessThan(Date.now() + 60_000);

    const [again] = await one(3, wrongClock);
    expect(again.clk).toBe("unsync");
    expect(again.ts).toBeGreaterThan(wrong.ts);

    const [right] = await one(4);
    expect(right.clk).toBeUndefined();
    expect(Math.abs(right.ts - Date.now())).toBeLessThan(60_000);
  });
});
