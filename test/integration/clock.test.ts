/** A gateway that boots with a wrong clock, as a board without a battery does. */
import { globSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder } from "../helpers/agent.ts";
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
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    uplinks: { local: { url: "embedded", batch: { ageMs: 20 } } },
  });
  afterAll(() => folder.remove());

  /** Runs an agent, sends one message, and gives its sample. */
  async function one(n: number, wrap: readonly string[] = []): Promise<Sample> {
    const agent = await Agent.start(folder, wrap);
    try {
      const client = await agent.client();
      let sample: Sample | undefined;
      client.on("message", (_topic, payload) => {
        const batch: { samples: Sample[] } = JSON.parse(payload.toString());
        sample = batch.samples.find(({ values }) => values["n"] === n) ?? sample;
      });
      await client.subscribeAsync("weir/v1/gw/data", { qos: 1 });
      await client.publishAsync("devices/d/t", `{"n":${n}}`, { qos: 1 });
      const found = await until("the sample", () => sample);
      await client.endAsync(true);
      return found;
    } finally {
      await agent.stop();
    }
  }

  test("400 days back: time goes on from the last known, flagged; later samples are right again", async () => {
    const first = await one(1);
    expect(first.clk).toBeUndefined();
    expect(Math.abs(first.ts - Date.now())).toBeLessThan(60_000);

    const wrong = await one(2, wrongClock);
    expect(wrong.clk).toBe("unsync");
    expect(wrong.ts).toBeGreaterThan(first.ts);
    expect(wrong.ts).toBeLessThan(Date.now() + 60_000);

    const again = await one(3, wrongClock);
    expect(again.clk).toBe("unsync");
    expect(again.ts).toBeGreaterThan(wrong.ts);

    const right = await one(4);
    expect(right.clk).toBeUndefined();
    expect(Math.abs(right.ts - Date.now())).toBeLessThan(60_000);
  });
});
