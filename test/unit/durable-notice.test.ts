import { expect, test } from "vitest";
import { readDurableNotice } from "../../src/uplink/durable-notice.ts";

const read = (value: unknown) => readDurableNotice(Buffer.from(JSON.stringify(value)));
const notice = { epoch: "5f1c9a2e", stream: "data", upto: 88_120 };

test("what a consumer says is durable is read, with ranges or without", () => {
  expect(read(notice)).toEqual({ ...notice, also: [] });
  expect(read({ ...notice, upto: -1, also: [[3, 4]], more: 1 })).toEqual({
    ...notice,
    upto: -1,
    also: [[3, 4]],
  });
});

test.each([
  null,
  "x",
  {},
  { ...notice, epoch: "5F1C9A2E" },
  { ...notice, epoch: 1 },
  { ...notice, stream: "dat" },
  { ...notice, upto: "1" },
  { ...notice, upto: -2 },
  { ...notice, upto: 0.5 },
  { ...notice, upto: 2 ** 53 },
  { ...notice, also: {} },
  { ...notice, also: [[1]] },
  { ...notice, also: [[1, 2, 3]] },
  { ...notice, also: [[1, "2"]] },
  { ...notice, also: Array(1001).fill([1, 2]) },
])("what is no notice is none: %j", (value) => expect(read(value)).toBeUndefined());

test("neither is what is no JSON, or too long", () => {
  expect(readDurableNotice(Buffer.from("{"))).toBeUndefined();
  expect(
    readDurableNotice(Buffer.from(JSON.stringify({ ...notice, more: " ".repeat(65_536) }))),
  ).toBeUndefined();
});
