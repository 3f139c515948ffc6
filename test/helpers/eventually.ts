import { vi } from "vitest";

/** Waits until an assertion holds; looks every so often, for as long as a slow machine may need. Throws what it threw last. */
export const eventually = <T>(assertion: () => T | Promise<T>, intervalMs = 20): Promise<T> =>
  vi.waitFor(assertion, { timeout: 100_000, interval: intervalMs });
