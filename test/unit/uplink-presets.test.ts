import { expect, test } from "vitest";
import { configSchema } from "../../src/config/schema.ts";
import { withPresets } from "../../src/uplink/options.ts";

const parsed = (cloud: object) =>
  configSchema.safeParse(withPresets({ uplinks: { cloud: { url: "mqtts://h", ...cloud } } }));

test("a preset's limits stand where nothing else is given", () => {
  const aws = parsed({ preset: "aws-iot", messagesPerSecond: 20 }).data?.uplinks["cloud"];
  expect(aws).toMatchObject({
    version: 5,
    maxPacketBytes: 131_072,
    messagesPerSecond: 20,
    bytesPerSecond: 524_288,
  });
  const azure = parsed({ preset: "azure-iot-hub", topics: { gap: "g" } }).data?.uplinks["cloud"];
  expect(azure).toMatchObject({
    version: 4,
    maxPacketBytes: 262_144,
    retain: false,
    clientId: "{gateway}",
    username: "{host}/{gateway}/?api-version=2021-04-12",
    topics: { gap: "g", status: "devices/{gateway}/messages/events/kind=status" },
  });
});

test("what the cloud does not take is refused with its limit", () => {
  const deep = { batch: "a/b/c/d/e/f/g/{gateway}/{stream}" };
  const messages = (cloud: object) =>
    parsed(cloud).error?.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  expect(messages({ preset: "aws-iot", topics: deep })).toEqual([
    "uplinks.cloud.topics.batch: 8 slashes, aws-iot takes 7",
  ]);
  expect(messages({ preset: "azure-iot-hub", topics: deep })).toBeUndefined();
  for (const preset of ["aws-iot", "azure-iot-hub"])
    expect(messages({ preset, qos: 2 })).toEqual([`uplinks.cloud.qos: ${preset} takes 1 at most`]);
  expect(messages({ qos: 2 })).toBeUndefined();
});
