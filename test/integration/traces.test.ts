/** Trace contexts from a device's message to the batch that it becomes part of, through mosquitto. */
import mqtt, { type IPublishPacket, type MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const A = "0af7651916cd43dd8448eb211c80319c";
const B = "4bf92f3577b34da6a3ce929d0e0e4736";
const of = (trace: string, span: number): string => `00-${trace}-${String(span).padStart(16, "0")}-01`;

describe.skipIf(!hasProgram("mosquitto"))("a device's trace context (mosquitto)", () => {
  let broker: Mosquitto;
  let folder: AgentFolder;
  let agent: Agent;
  let upstream: MqttClient;
  let device: MqttClient;
  const batches: IPublishPacket[] = [];

  beforeAll(async () => {
    broker = await Mosquitto.start();
    const url = `mqtt://127.0.0.1:${broker.port}`;
    upstream = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
    upstream.on("message", (_topic, _payload, packet) => batches.push(packet));
    await upstream.subscribeAsync("weir/v1/gw/data", { qos: 1 });
    folder = new AgentFolder({
      sources: {
        kernel: { enabled: false },
        system: { enabled: false },
        mqtt: { plant: { url, rules: [{ topic: "factory/{device}/data" }] } },
      },
      // Two samples, a message each, make a batch.
      uplinks: { up: { url, traceparent: true, batch: { samples: 2, ageMs: 600_000 } } },
    });
    agent = await Agent.start(folder);
    const at = `mqtt://${await agent.broker()}`;
    device = await mqtt.connectAsync(at, { protocolVersion: 5, reconnectPeriod: 0 });
    await until("the source", async () =>
      (await folder.api.status()).parts.some(
        ({ name, state }) => name === "source mqtt/plant" && state === "on",
      ),
    );
  });
  afterAll(async () => {
    device.end(true);
    upstream.end(true);
    await agent.kill();
    await broker.remove();
    folder.remove();
  });

  type Sent = readonly [qos: 0 | 1 | 2, traceparent: string | undefined];
  /** Publishes two messages, and gives the properties of the batch that they are. */
  async function sent(one: Sent, two: Sent, client = device, topic = "devices/pump-1/t") {
    const before = batches.length;
    for (const [qos, traceparent] of [one, two]) {
      const properties = traceparent === undefined ? {} : { userProperties: { traceparent } };
      await client.publishAsync(topic, '{"n":1}', { qos, properties });
    }
    const batch = await until("the batch", () => batches[before]);
    const { traceparent, tracelinks } = {
      traceparent: "",
      tracelinks: "",
      ...batch.properties?.userProperties,
    };
    return {
      traceparent: String(traceparent),
      links: String(tracelinks)
        .split(",")
        .filter((link) => link !== ""),
    };
  }

  test("is a link of the batch, whose own context is in the device's trace when all its messages are", async () => {
    const { traceparent, links } = await sent([1, of(A, 1)], [0, of(A, 2)]);
    expect(traceparent).toMatch(new RegExp(`^00-${A}-[0-9a-f]{16}-01$`));
    expect(links).toEqual([of(A, 1), of(A, 2)]);
    expect(links).not.toContain(traceparent);
  });

  test("does not speak for messages of other traces, or of none", async () => {
    const two = await sent([2, of(A, 3)], [1, of(B, 4)]);
    expect(two.traceparent).not.toMatch(new RegExp(`${A}|${B}`));
    expect(two.links).toEqual([of(A, 3), of(B, 4)]);
    const half = await sent([1, undefined], [1, of(B, 5)]);
    expect(half.traceparent).not.toContain(B);
    expect(half.links).toEqual([of(B, 5)]);
  });

  test("that is none is left out, and the message is taken all the same", async () => {
    const { traceparent, links } = await sent([1, "00-1"], [0, of(A, 0)]);
    expect(traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    expect(links).toEqual([]);
  });

  test("comes through an external broker, too", async () => {
    const { traceparent, links } = await sent([1, of(B, 6)], [1, of(B, 7)], upstream, "factory/pump-2/data");
    expect(traceparent).toMatch(new RegExp(`^00-${B}-`));
    expect(links).toEqual([of(B, 6), of(B, 7)]);
  });
});
