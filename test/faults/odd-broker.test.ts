/** Brokers that misbehave: for a while the link's port is answered by one, then by mosquitto again. */
import { setTimeout } from "node:timers/promises";
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

/** CONNACK reasons that may pass: unspecified, implementation specific, unavailable, busy, banned, quota, rate. */
const REFUSALS = [0x80, 0x83, 0x87, 0x88, 0x89, 0x8a, 0x97, 0x9f];

fault("a broker that refuses each connection, for every reason", {}, (world) => {
  let at = 0;
  return during(
    world,
    (packet) =>
      packet.cmd === "connect"
        ? { cmd: "connack", reasonCode: REFUSALS[at++ % REFUSALS.length] ?? 0x80, sessionPresent: false }
        : undefined,
    (odd) => until("refusals", () => odd.connections >= long(8, 3), 300_000),
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

for (const [name, reason] of [
  ["quota exceeded", 0x97],
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
      (odd) => until("disconnections", () => odd.connections >= long(6, 2), 240_000),
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
