import { defineConfig } from "vitest/config";

/** One project per kind of test, so that each can be run (and be seen to have run) on its own. */
const kinds = ["unit", "property", "contract", "integration", "kernel", "native", "faults"];

export default defineConfig({
  test: {
    testTimeout: 240_000,
    hookTimeout: 240_000,
    projects: kinds.map((name) => ({
      extends: true as const,
      test: { name, include: [`test/${name}/**/*.test.ts`] },
    })),
  },
});
