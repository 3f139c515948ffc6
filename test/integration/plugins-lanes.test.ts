/** Plugins that run in several lanes: order, state, failures, and a change of their number. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { MessagesBuilder } from "../../src/core/messages.ts";
import { pluginsSchema } from "../../src/plugins/options.ts";
import {
  fixture,
  frameOf,
  hostile,
  Lane,
  openFolder,
  type Row,
  rowsOf,
  type Subject,
} from "../helpers/lane.ts";

const folder = openFolder("weir-lanes-");
const cacheDir = join(folder, "cache");
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tally: Subject = {
  component: fixture("tally"),
  manifest: { needs: { state: true }, perDevice: true },
};

/** Runs a test with plugins in so many lanes. */
async function withLanes(
  lanes: number,
  subjects: Readonly<Record<string, Subject>>,
  body: (lane: Lane) => Promise<void>,
): Promise<void> {
  const lane = await Lane.start(subjects, cacheDir, {}, lanes);
  try {
    await body(lane);
  } finally {
    await lane.stop();
  }
}

const devices = Array.from({ length: 40 }, (_, i) => `press-${i}`);
const round = (value: number): Row[] => devices.map((device): Row => [device, "n", value]);

/** Each device's values, in their order. */
function byDevice(rows: readonly Row[]): Map<string, number[]> {
  const series = new Map<string, number[]>();
  for (const [device, , value] of rows) series.set(device, [...(series.get(device) ?? []), value]);
  return series;
}

describe("a plugin in four lanes", () => {
  test("gets every row once and in its device's order, each device in one lane", async () => {
    await withLanes(4, { tally }, async (lane) => {
      expect(lane.info("tally").lanes).toBe(4);
      const outputs = [];
      for (let i = 0; i < 5; i++) outputs.push(lane.pass(frameOf(...round(0), ...round(0))));
      const rows = (await Promise.all(outputs)).flatMap(({ frame }) => rowsOf(frame));
      // Two lanes with one device's rows would each have counted from one.
      expect(byDevice(rows)).toEqual(
        new Map(devices.map((device) => [device, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])),
      );
    });
  });

  test("keeps its state when their number changes, and while it does", async () => {
    await withLanes(4, { tally }, async (lane) => {
      const { dir } = lane;
      for (const lanes of [4, 2, 3, 1]) {
        await lane.manager.reconfigure(pluginsSchema.parse({ dir: join(dir, "plugins"), lanes }));
        expect(lane.info("tally")).toMatchObject({ lanes, state: "on" });
        await lane.pass(frameOf(...round(0)));
      }
      const { frame } = await lane.pass(frameOf(...round(0)));
      expect(new Set(rowsOf(frame).map(([, , value]) => value))).toEqual(new Set([5]));
    });
  });

  test("fails as one: what any lane refuses to do, none has done", async () => {
    // `late` never returns from its thousandth call.
    await withLanes(
      4,
      {
        tally,
        late: { component: hostile("late"), manifest: { perDevice: true, limits: { timeMs: 1_500 } } },
      },
      async (lane) => {
        let failed = 0;
        let passed = 0;
        while (failed === 0 && passed < 1_200) {
          const result = await lane.send(frameOf(...round(0)));
          if (result.ok) {
            lane.commit(result);
            passed += 1;
          } else {
            failed += 1;
            expect(result.failures[0].plugin).toBe("late");
            await lane.manager.chain.restart();
          }
        }
        expect(failed).toBe(1);
        const { frame } = await lane.pass(frameOf(...round(0)));
        expect(new Set(rowsOf(frame).map(([, , value]) => value))).toEqual(new Set([passed + 1]));
      },
    );
  });

  test("may keep nothing for the plugin as a whole", async () => {
    const counter: Subject = {
      component: fixture("counter"),
      manifest: { needs: { state: true }, perDevice: true },
    };
    await withLanes(4, { counter }, async (lane) => {
      const failure = await lane.fail(frameOf(...round(1)));
      expect(failure).toMatchObject({
        plugin: "counter",
        disposition: "reject",
        reason: "state was refused",
      });
    });
  });

  test("decodes messages by their devices, and names the right ones that it refuses", async () => {
    const decoder: Subject = { component: fixture("decoder"), manifest: { perDevice: true } };
    await withLanes(4, { decoder }, async (lane) => {
      const builder = new MessagesBuilder();
      devices.forEach((device, i) => {
        const payload = i % 7 === 3 ? Buffer.from("nonsense!") : Buffer.from(Float64Array.of(i).buffer);
        builder.add(device, "c", `raw/${device}`, 1_763_640_000_000_000 + i, payload);
      });
      const { frame, rejected } = await lane.pass(frameOf(), {
        messages: new Map([["decoder", builder.build()]]),
      });
      const bad = devices.flatMap((_, i) => (i % 7 === 3 ? [i] : []));
      expect(rejected.map(({ index }) => index).toSorted((a, b) => a - b)).toEqual(bad);
      expect(new Map(rowsOf(frame).map(([device, , value]) => [device, value]))).toEqual(
        new Map(devices.flatMap((device, i) => (i % 7 === 3 ? [] : [[device, i] as const]))),
      );
    });
  });
});

test("a plugin whose manifest doesn't say that it looks at each device by itself runs in one lane", async () => {
  const counter: Subject = { component: fixture("counter"), manifest: { needs: { state: true } } };
  await withLanes(4, { counter }, async (lane) => {
    expect(lane.info("counter").lanes).toBe(1);
    const { frame } = await lane.pass(frameOf(...round(0)));
    expect(rowsOf(frame).at(-1)).toEqual(["press-39", "count", 40]);
  });
});
