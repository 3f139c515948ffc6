/** Faults of the way to the broker. */
import { setTimeout } from "node:timers/promises";
import { until } from "../helpers/until.ts";
import { fakeTime } from "./harness/fake-time.ts";
import { fault, long } from "./harness/world.ts";

fault("broker away and back", {}, async ({ link, broker }) => {
  await link.cut();
  await setTimeout(long(60_000, 3_000));
  await link.start();
  // And the broker itself, which keeps what it took.
  await broker.halt();
  await setTimeout(long(10_000, 1_000));
  await broker.run();
  return undefined;
});

/** A day of the agent's clock in this many seconds. */
const DAY_S = 60;

fault(
  "broker away for a day, compressed into a minute",
  {
    needs: ["faketime"],
    longOnly: true,
    // Ages, backlog and what is kept for how long go by the clock; timers by the monotonic one.
    agentWrap: fakeTime(`+0d x${Math.round(86_400 / DAY_S)}`),
    uplink: { replay: { after: "10m" }, ttl: { data: "7d" } },
  },
  async ({ link }) => {
    await link.cut();
    await setTimeout(DAY_S * 1_000);
    await link.start();
    return undefined;
  },
);

fault("connection reset again and again", {}, async ({ link }) => {
  const times = long(12, 4);
  for (let i = 0; i < times; i++) {
    await setTimeout(long(5_000, 1_500));
    link.reset();
  }
  return `${times} resets, ${link.connections} connections`;
});

fault(
  "half-open: bytes vanish, the connection stays",
  { uplink: { ackTimeoutMs: 2_000 } },
  async ({ link }) => {
    link.stall();
    await setTimeout(long(45_000, 4_000));
    link.unstall();
    return undefined;
  },
);

fault(
  "backlog of an outage goes out beside live data",
  { uplink: { replay: { after: "1s" } } },
  async (world) => {
    await world.link.cut();
    await world.acknowledged(long(20_000, 1_500));
    await world.link.start();
    await until("live data", async () => world.judge.has("d0", (world.load.next["d0"] ?? 0) - 1));
    const { load, judge } = world;
    await until("backlog", async () => (await judge.verdict(load.ranges, load.next)).historical > 0);
    return undefined;
  },
);
