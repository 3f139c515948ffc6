/** Brokers that misbehave: for a while the link's port is answered by one, then by mosquitto again. */
import { setTimeout } from "node:timers/promises";
import mqtt from "mqtt";
import { expect } from "vitest";
import { until } from "../helpers/until.ts";
import { type Answer, OddBroker } from "./harness/odd-broker.ts";
import { fault, long, type World } from "./harness/world.ts";

/** The odd broker takes the sound one's place until `enough`. */
async function during(
  { link }: World,
  answer: Answer,
  enough: (odd: OddBroker) => Promise<unknown>,
): Promise<string> {
  await link.cut();
  const odd = new OddBroker(answer);
  await odd.start(link.port);
  try {
    await enough(odd);
  } finally {
    await odd.stop();
    await link.start();
  }
  return `${odd.connections} connections, ${odd.publishes} batches`;
}

/** What it takes it forgets, so it must never acknowledge a batch with success. */
const isData = (topic: string): boolean => topic.endsWith("/data");

fault("a broker that accepts and never answers", {}, (world) =>
  during(
    world,
    () => "silence",
    async (odd) => {
      await until("a connection", () => odd.connections > 0);
      await setTimeout(long(30_000, 2_000));
    },
  ),
);

fault("a broker that never acknowledges", { uplink: { ackTimeoutMs: 1_000 } }, (world) =>
  during(
    world,
    (packet) => (packet.cmd === "publish" && isData(packet.topic) ? "silence" : undefined),
    async (odd) => {
      await until("it to be tried again", () => odd.connections >= long(4, 2), 120_000);
    },
  ),
);

/** Every reason that a CONNACK can have (MQTT 5, 3.2.2.2): what a person must mend is tried again, too. */
const REFUSALS = [
  ...[0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99],
  ...[0x9a, 0x9b, 0x9c, 0x9d, 0x9f],
];

fault("a broker that refuses each connection, for every reason", { timeoutMs: 900_000 }, (world) => {
  let at = 0;
  return during(
    world,
    (packet) =>
      packet.cmd === "connect"
        ? { cmd: "connack", reasonCode: REFUSALS[at++ % REFUSALS.length] ?? 0x80, sessionPresent: false }
        : undefined,
    (odd) => until("refusals", () => odd.connections >= long(REFUSALS.length, 3), 600_000),
  );
});

/** PUBACK reasons after which a message is worth sending again: unspecified, implementation specific, not now authorised, in use, quota. */
const RETRIES = [0x80, 0x83, 0x87, 0x91, 0x97];

fault("a broker that answers each batch with an error code", {}, (world) => {
  let at = 0;
  return during(
    world,
    (packet) =>
      packet.cmd === "publish" && isData(packet.topic)
        ? {
            cmd: "puback",
            messageId: packet.messageId ?? 0,
            reasonCode: RETRIES[at++ % RETRIES.length] ?? 0x80,
          }
        : undefined,
    (odd) => until("errors", () => odd.publishes >= long(10, 3), 240_000),
  );
});

/** PUBACK reasons that are final: not authorised comes and goes, a topic or payload that is not valid stays so. */
const FINAL = [0x90, 0x99];

fault(
  "a broker that refuses some batches for good",
  { uplink: { batch: { samples: 50, ageMs: 50 } }, mayDrop: true },
  async (world) => {
    let at = 0;
    // It forgets what it takes, and gaps are announced once: those it hands on.
    const relay = await mqtt.connectAsync(`mqtt://127.0.0.1:${world.broker.port}`);
    await during(
      world,
      (packet) => {
        if (packet.cmd !== "publish") return undefined;
        if (packet.topic.endsWith("/gap")) relay.publish(packet.topic, packet.payload, { qos: 1 });
        if (!isData(packet.topic)) return undefined;
        const reasonCode = FINAL[at++ % FINAL.length] ?? 0x90;
        return { cmd: "puback", messageId: packet.messageId ?? 0, reasonCode };
      },
      (odd) => until("refusals", () => odd.publishes >= long(100, 4), 240_000),
    );
    await relay.endAsync();
    const { rejected } = await world.data();
    expect(rejected).toBeGreaterThan(0);
    return `${rejected} samples set aside as dead letters`;
  },
);

for (const [name, reason] of [
  ["quota exceeded", 0x97],
  ["session taken over", 0x8e],
  ["packet too large", 0x95],
  ["server shutting down", 0x8b],
  ["receive maximum exceeded", 0x93],
] as const) {
  fault(`a broker that disconnects: ${name}`, { longOnly: reason !== 0x97 }, (world) =>
    during(
      world,
      (packet, socket) => {
        if (packet.cmd !== "publish" || !isData(packet.topic)) return undefined;
        setImmediate(() => socket.end());
        return { cmd: "disconnect", reasonCode: reason };
      },
      // Who is thrown out by its own name again and again stops, and says so: that is another test.
      (odd) => until("disconnections", () => odd.connections >= (reason === 0x8e ? 1 : long(6, 2)), 240_000),
    ),
  );
}

fault("a broker that sends garbage", { longOnly: true }, (world) =>
  during(
    world,
    (_, socket) => {
      socket.write(Buffer.from("ff00ff00deadbeefffffffffffffffff", "hex"));
      return "silence";
    },
    async (odd) => {
      await until("it to be tried again", () => odd.connections >= 3, 120_000);
      expect(world.agent.child.exitCode).toBeNull();
    },
  ),
);
