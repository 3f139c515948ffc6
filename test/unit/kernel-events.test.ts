import { expect, test } from "vitest";
import { LARGEST_RING_BYTES, ringBytesFor } from "../../src/sources/kernel-events.ts";

test("a ring has room for two seconds of its rate, within bounds that hold on pages of 4, 16 and 64 KiB", () => {
  expect(ringBytesFor(0)).toBe(65_536);
  expect(ringBytesFor(511)).toBe(65_536);
  expect(ringBytesFor(1000)).toBe(128_000);
  expect(ringBytesFor(1e9)).toBe(LARGEST_RING_BYTES);
  expect(LARGEST_RING_BYTES % 65_536).toBe(0);
});
