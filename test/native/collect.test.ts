import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { addonState } from "../../src/addon/index.ts";

test("a thread's garbage is collected when that is asked for, not when V8 has a reason to", async () => {
  const addon = addonState();
  if (!addon.ok) throw new Error(addon.reason);
  const garbage = new WeakRef({});
  // What a WeakRef has just been made of stays for the turn.
  await setImmediate();
  addon.native.collectGarbage();
  expect(garbage.deref()).toBeUndefined();
});
