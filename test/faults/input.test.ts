/** Faults of what comes in: payloads and topics that mean harm, more devices than fit, subscribers that don't read. */
import { once } from "node:events";
import { connect } from "node:net";
import type mqtt from "mqtt";
import mqttPacket from "mqtt-packet";
import { expect } from "vitest";
import { fault, LONG, long } from "./harness/world.ts";

const deep = (n: number): string => `${'{"a":'.repeat(n)}1${"}".repeat(n)}`;

/** Payloads that mean harm. */
const HOSTILE: ReadonlyMap<string, string | Buffer> = new Map<string, string | Buffer>([
  ["malformed JSON", '{"n":'],
  ["depth 100,000", deep(100_000)],
  ["arrays 100,000 deep", "[".repeat(100_000)],
  ["__proto__", '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}'],
  ["1e400", '{"v":1e400}'],
  ["a number of 100,000 digits", `{"v":${"9".repeat(100_000)}}`],
  ["NUL in a name", '{"a\\u0000b":1}'],
  ["half a surrogate", '{"\\ud800":"\\udfff"}'],
  ["not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])],
  ["a name of 100,000 characters", `{"${"k".repeat(100_000)}":1}`],
  ["100,000 names", `{${Array.from({ length: 100_000 }, (_, i) => `"k${i}":${i}`).join(",")}}`],
  ["nothing", ""],
]);

fault("hostile payloads", {}, async ({ agent }) => {
  const refused = new Set<string>();
  for (const [kind, payload] of HOSTILE) {
    for (let i = 0; i < long(50, 1); i++) {
      const client = await agent.client();
      client.on("error", () => {});
      // One beyond the broker's largest packet ends the connection.
      const closed = new Promise<void>((done) => client.once("close", () => done()));
      const taken = client.publishAsync("devices/evil/t", payload, { qos: 1 }).then(
        () => true,
        () => false,
      );
      if ((await Promise.race([taken, closed])) !== true) refused.add(kind);
      client.end(true);
    }
  }
  expect(agent.child.exitCode).toBeNull();
  return `${HOSTILE.size} kinds; too large: ${[...refused].join(", ")}`;
});

/** A PUBLISH by hand: no client would send these topics. */
function publishOf(topic: string): Buffer {
  const name = Buffer.from(topic);
  const body = Buffer.alloc(2 + name.length + 2 + 7);
  body.writeUInt16BE(name.length, 0);
  name.copy(body, 2);
  body.writeUInt16BE(1, 2 + name.length);
  body.write('{"v":1}', 4 + name.length);
  const length: number[] = [];
  for (let left = body.length; ; ) {
    const byte = left % 128;
    left = Math.floor(left / 128);
    length.push(left > 0 ? byte | 128 : byte);
    if (left === 0) break;
  }
  return Buffer.concat([Buffer.from([0x32, ...length]), body]);
}

fault("topics with NUL, wildcards, and of 64 KB", {}, async ({ agent }) => {
  const [host = "", port = ""] = (await agent.broker()).split(":");
  const topics = [
    "devices/a\0b/t",
    "devices/+/t",
    "devices/#",
    "",
    `devices/${"x".repeat(65_000)}/t`,
    "/".repeat(65_535),
  ];
  for (const topic of topics) {
    const socket = connect(Number(port), host);
    socket.on("error", () => {});
    const closed = once(socket, "close");
    socket.write(mqttPacket.generate({ cmd: "connect", clientId: "evil", clean: true, keepalive: 10 }));
    socket.write(publishOf(topic));
    // Refused, with the connection or the message alone.
    await Promise.race([closed, once(socket, "data").then(() => once(socket, "data"))]).catch(() => {});
    socket.destroy();
  }
  expect(agent.child.exitCode).toBeNull();
  return undefined;
});

const watched = {
  sources: {
    kernel: { enabled: false },
    system: { enabled: false },
    devices: [{ topic: "devices/{device}/{channel}", staleAfter: "1h" }],
  },
};
/** Devices that are known, and that are watched, at most (docs/specs/json.md, mapping.md). */
const MOST_KNOWN = 10_000;

fault("a million device ids", { config: watched, timeoutMs: 900_000 }, async (world) => {
  const { agent, folder } = world;
  const clients = await Promise.all(Array.from({ length: 4 }, () => agent.client()));
  const ids = long(1_000_000, 20_000);
  const began = world.rssMiB();
  let next = 0;
  const pump = async (client: mqtt.MqttClient): Promise<void> => {
    while (next < ids) {
      const from = next;
      next += 250;
      await Promise.all(
        Array.from({ length: 250 }, (_, i) =>
          client.publishAsync(`devices/id-${from + i}/t`, '{"v":1}', { qos: 1 }),
        ),
      );
    }
  };
  await Promise.all(clients.map(pump));
  await Promise.all(clients.map((client) => client.endAsync()));
  const grown = world.rssMiB() - began;
  expect(grown, "growth of RSS, in MiB").toBeLessThan(128);
  const { http } = await folder.api.status();
  const page = await (await fetch(`http://${http}/metrics`)).text();
  const figure = (name: string): number =>
    Number(
      page
        .split("\n")
        .find((line) => line.startsWith(name))
        ?.split(" ")
        .at(-1),
    );
  expect(figure("weir_devices ")).toBe(MOST_KNOWN);
  const unkept = figure("weir_devices_unkept_samples_total ");
  expect(unkept).toBeGreaterThanOrEqual(ids - MOST_KNOWN);
  const unwatched = figure('weir_ledger_notes_total{stage="source",name="presence",what="unwatched"}');
  expect(unwatched).toBeGreaterThanOrEqual(ids - MOST_KNOWN);
  return `${ids} ids, RSS +${grown.toFixed(0)} MiB, ${unkept} not in last, ${unwatched} not watched`;
});

fault("a subscriber that never reads", { load: { perSecond: 0 } }, async (world) => {
  const [host = "", port = ""] = (await world.agent.broker()).split(":");
  const socket = connect(Number(port), host);
  socket.on("error", () => {});
  socket.write(mqttPacket.generate({ cmd: "connect", clientId: "deaf", clean: true, keepalive: 0 }));
  socket.write(
    mqttPacket.generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic: "#", qos: 1 }] }),
  );
  socket.pause();
  await world.acknowledged(long(20_000, 1_000), 240_000);
  const began = world.rssMiB();
  await world.acknowledged(long(100_000, 3_000), 240_000);
  const grown = world.rssMiB() - began;
  if (LONG) expect(grown, "growth of RSS, in MiB").toBeLessThan(100);
  socket.destroy();
  return `RSS ${grown >= 0 ? "+" : ""}${grown.toFixed(0)} MiB`;
});
