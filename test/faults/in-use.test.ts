/** What happens to an agent that is in use: its files taken away, its configuration changed, its outbox purged and read, and floods. */
import { spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { expect } from "vitest";
import { parse, stringify } from "yaml";
import { weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";
import { fault, long, type World } from "./harness/world.ts";

/** Changes options of the uplink `cloud`, and has the agent take them. */
async function change({ folder }: World, options: Readonly<Record<string, unknown>>): Promise<void> {
  const config: { uplinks: Record<string, object> } = parse(readFileSync(folder.config, "utf8"));
  config.uplinks["cloud"] = { ...config.uplinks["cloud"], ...options };
  writeFileSync(folder.config, stringify(config));
  await folder.api.reload();
}

for (const [end, name] of [
  ["-wal", "WAL"],
  ["-shm", "WAL's index"],
] as const)
  fault(
    `the database's ${name} removed while it is in use, then kill -9`,
    { longOnly: end === "-shm" },
    async (world) => {
      await world.link.cut();
      await world.acknowledged(300);
      const { epoch } = await world.folder.api.status();
      rmSync(join(world.folder.dir, "data", `weir.db${end}`));
      await until(
        "the database to be opened anew",
        async () => (await world.folder.api.status()).epoch !== epoch,
      );
      await world.acknowledged(300);
      await world.agent.kill();
      await world.link.start();
      await world.restart();
      return "what was in it is saved, and the database opened anew";
    },
  );

fault("the data folder removed while it is in use", { longOnly: true }, async (world) => {
  const { http } = await world.folder.api.status();
  await world.load.stop();
  await until("everything to be sent", async () => (await world.data()).held === 0);
  rmSync(join(world.folder.dir, "data"), { recursive: true });
  const isReady = async (): Promise<boolean> => (await fetch(`http://${http}/readyz`)).status === 200;
  await until("it to be said", async () => !(await isReady()));
  world.load.start();
  const before = world.load.acknowledged;
  await setTimeout(3_000);
  expect(world.load.acknowledged).toBe(before);
  await world.agent.stop();
  await world.restart();
  return "nothing is acknowledged until a restart";
});

const atLimit = {
  config: { outbox: { maxBytes: "4MiB" } },
  load: { perSecond: 0, inFlight: 50, padBytes: 2000 },
};
fault(
  "overflow changed by a reload while the outbox is at its limit",
  { ...atLimit, mayDrop: true, uplink: { overflow: "pause", streams: ["data"] }, longOnly: true },
  async (world) => {
    await world.link.cut();
    await until("the outbox to be full", async () => (await world.folder.api.outbox()).full, 120_000);
    await change(world, { overflow: "drop-oldest" });
    await world.acknowledged(3_000);
    await change(world, { overflow: "pause" });
    await world.link.start();
    return undefined;
  },
);

fault("weir outbox purge while devices publish", { mayDrop: true, longOnly: true }, async (world) => {
  const purge = (): void =>
    expect(weir("outbox", "purge", "--all", "--config", world.folder.config).status).toBe(0);
  await world.link.cut();
  for (let i = 0; i < 8; i++) {
    purge();
    await world.acknowledged(50);
  }
  await world.link.start();
  for (let i = 0; i < 8; i++) purge();
  return undefined;
});

fault(
  "weir outbox export while the outbox grows",
  { load: { perSecond: 0, inFlight: 50 }, longOnly: true },
  async (world) => {
    await world.link.cut();
    await world.acknowledged(5_000);
    const args = ["outbox", "export", "--stream", "data", "--config", world.folder.config];
    const { stdout } = spawn(resolve("bin/weir"), args, { stdio: ["ignore", "pipe", "inherit"] });
    let lines = 0;
    let last = -1;
    for await (const text of createInterface(stdout)) {
      const { seq }: { seq: number } = JSON.parse(text);
      expect(seq).toBeGreaterThanOrEqual(last);
      last = seq;
      lines += 1;
    }
    expect(lines).toBeGreaterThanOrEqual(5_000);
    await world.link.start();
    return `${lines} lines, in order`;
  },
);

fault("a storm of reloads under load", {}, async (world) => {
  const count = long(60, 6);
  for (let i = 0; i < count; i++) await change(world, { batch: { ageMs: 20 + (i % 7) * 10 } });
  return `${count} reloads`;
});

fault("10,000 connections that say nothing", { longOnly: true }, async (world) => {
  const [host = "", port] = (await world.agent.broker()).split(":");
  const before = world.rssMiB();
  const sockets: Socket[] = [];
  let closed = 0;
  for (let i = 1; i <= 10_000; i++) {
    const socket = connect(Number(port), host);
    socket.on("error", () => {});
    socket.on("close", () => {
      closed += 1;
    });
    sockets.push(socket);
    if (i % 200 === 0) await setTimeout(20);
  }
  await world.acknowledged(300);
  await until("those above the limit to be refused", () => closed > 0);
  const grown = world.rssMiB() - before;
  expect(grown, "growth of RSS, in MiB").toBeLessThan(100);
  for (const socket of sockets) socket.destroy();
  return `${closed} refused, RSS ${grown >= 0 ? "+" : ""}${grown.toFixed(0)} MiB`;
});

/** CONNECT of a client of MQTT 3.1.1, without a persistent session. */
const connectPacket = (id: string): Buffer =>
  Buffer.concat([
    Buffer.from([0x10, 12 + id.length, 0, 4]),
    Buffer.from("MQTT"),
    Buffer.from([4, 2, 0, 60, 0, id.length]),
    Buffer.from(id),
  ]);

fault("QoS 2 floods that never complete", { longOnly: true }, async (world) => {
  const [host = "", port] = (await world.agent.broker()).split(":");
  const before = world.rssMiB();
  const floods = Array.from({ length: 8 }, (_, i) => {
    const socket = connect(Number(port), host);
    socket.on("error", () => {}).resume();
    socket.write(connectPacket(`flood${i}`));
    return socket;
  });
  const topic = Buffer.from("devices/flood/t");
  const body = Buffer.from('{"x":1}'.padEnd(4096));
  const left = 2 + topic.length + 2 + body.length;
  for (let id = 1; id < 60_000; id++) {
    const head = Buffer.from([0x34, (left & 127) | 128, left >> 7, 0, topic.length]);
    const packet = Buffer.concat([head, topic, Buffer.from([id >> 8, id & 255]), body]);
    for (const socket of floods) if (!socket.destroyed && socket.writableLength < 1e6) socket.write(packet);
    if (id % 500 === 0) await setTimeout(1);
  }
  await world.acknowledged(300);
  const grown = world.rssMiB() - before;
  expect(grown, "growth of RSS, in MiB").toBeLessThan(150);
  for (const socket of floods) socket.destroy();
  return `RSS ${grown >= 0 ? "+" : ""}${grown.toFixed(0)} MiB`;
});
