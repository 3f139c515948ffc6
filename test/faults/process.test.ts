/** Faults of the agent's process, its clock, and of who else wants its name. */
import { expect } from "vitest";
import { fakeTime } from "./harness/fake-time.ts";
import { fault, LONG, long, type World } from "./harness/world.ts";

/** Ends the agent with `end`, starts it again, and gives the seconds that the start took. */
async function again(
  world: World,
  end: () => Promise<unknown>,
  wrap: readonly string[] = [],
): Promise<number> {
  await end();
  const began = performance.now();
  await world.restart(wrap);
  return (performance.now() - began) / 1000;
}

fault(`kill -9 under load, ${long(50, 5)} times`, { load: { perSecond: 0 } }, async (world) => {
  let slowest = 0;
  for (let i = 0; i < long(50, 5); i++) {
    await world.acknowledged(500);
    slowest = Math.max(slowest, await again(world, () => world.agent.kill()));
  }
  // Other work on a shared machine makes starts late: held to account in the long form alone.
  if (LONG) expect(slowest, "the slowest start, in seconds").toBeLessThanOrEqual(5);
  return `slowest start ${slowest.toFixed(1)} s`;
});

fault(`devices at mosquitto, kill -9 ${long(10, 2)} times`, { devicesAtMosquitto: true }, async (world) => {
  for (let i = 0; i < long(10, 2); i++) {
    await world.acknowledged(200);
    await again(world, () => world.agent.kill());
  }
  // What was in flight at each kill, and committed, came again.
  return `${world.load.acknowledged} acknowledged by mosquitto`;
});

fault("SIGTERM under load", { load: { perSecond: 0 } }, async (world) => {
  let ended = 0;
  await again(world, async () => {
    const began = performance.now();
    // Had it taken ten seconds, it would have ended itself, with code 1.
    expect(await world.agent.stop()).toBe(0);
    ended = (performance.now() - began) / 1000;
  });
  return `ended within ${ended.toFixed(1)} s`;
});

fault("SIGTERM while the broker does not answer", {}, async (world) => {
  let ended = 0;
  await world.acknowledged(200);
  world.link.stall();
  await again(world, async () => {
    await world.acknowledged(200);
    const began = performance.now();
    expect(await world.agent.stop()).toBe(0);
    ended = (performance.now() - began) / 1000;
    world.link.unstall();
  });
  if (LONG) expect(ended).toBeLessThan(6);
  return `ended within ${ended.toFixed(1)} s`;
});

const clocks = [
  ["clock 400 days back", "-400d"],
  ["clock 10 years ahead", "+3650d"],
] as const;
for (const [name, offset] of clocks) {
  fault(
    `${name}, and right again`,
    { needs: ["faketime"], longOnly: offset.startsWith("+") },
    async (world) => {
      await again(world, () => world.agent.kill(), fakeTime(offset));
      await world.acknowledged(300);
      await again(world, () => world.agent.kill());
      return undefined;
    },
  );
}

fault("another client with the uplink's id, for a while", {}, async ({ broker, agent, load }) => {
  const { connectAsync } = (await import("mqtt")).default;
  const thief = await connectAsync(`mqtt://127.0.0.1:${broker.port}`, {
    clientId: "weir-gw.cloud",
    reconnectPeriod: 0,
  });
  await thief.endAsync(true);
  expect(agent.child.exitCode).toBeNull();
  expect(load.acknowledged).toBeGreaterThan(0);
  return undefined;
});
