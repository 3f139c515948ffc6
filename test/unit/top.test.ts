import { expect, test } from "vitest";
import { figuresOf, type Look } from "../../src/cli/top-figures.ts";
import { Painter, screen } from "../../src/cli/top-view.ts";
import type { LedgerLine } from "../../src/core/ledger.ts";

const line = (stage: string, name: string, n: number): LedgerLine => ({
  stage,
  name,
  unit: "samples",
  in: n,
  out: n,
  lost: 0,
  dropped: 0,
  rejected: 0,
  held: 0,
  also: {},
});

function look(at: number, n: number, many: number): Look {
  const names = Array.from({ length: many }, (_, i) => `name-${i}`);
  const status = {
    version: "1",
    gateway: "gw",
    epoch: "00",
    pid: 1,
    uptime: 90_061,
    dataDir: "/",
    topics: [],
  };
  return {
    status: { ...status, broker: undefined, http: undefined, parts: [] },
    ledger: {
      epoch: "00",
      lines: [
        line("commit", "data", n),
        ...names.flatMap((name) => [line("source", name, n), line("outbox", name, n)]),
      ],
    },
    outbox: {
      fileBytes: 1,
      usedBytes: 1,
      limitBytes: 2,
      full: false,
      quarantined: undefined,
      counts: [],
      oldest: [],
    },
    plugins: [],
    probes: [],
    vitals: {
      at,
      loopLag: 0.001,
      loopBusy: 0.5,
      openFds: 3,
      processes: [{ name: "weir", pid: 1, pssBytes: 2 ** 20, cpuSeconds: at / 2 }],
      latencies: { device_ack: { bounds: [0.01, 0.1], counts: [0, n, 0] } },
    },
  };
}

test("rates are of the time between two looks, latencies of what came in it", () => {
  const figures = figuresOf(look(10, 1000, 1), look(12, 5000, 1));
  expect(figures.commit[0]).toMatchObject({ outRate: 2000 });
  expect(figures.processes[0]?.cpu).toBeCloseTo(0.5);
  expect(figures.latencies).toEqual([{ name: "device_ack", p50: 100, p99: 100 }]);
});

test("the screen fits 80x24 whatever there is to show, and says what it leaves out", () => {
  for (const many of [0, 1, 5, 200]) {
    const lines = screen(figuresOf(look(10, 0, many), look(11, 7, many)), 80, 24);
    expect(lines.length).toBeLessThanOrEqual(24);
    for (const text of lines) expect(text.length).toBeLessThanOrEqual(80);
    if (many === 200) expect(lines.join("\n")).toMatch(/… 19\d more/);
  }
});

test("only lines that changed are written", () => {
  const painter = new Painter();
  expect(painter.paint(["a", "b"])).toContain("\u001b[2;1Hb");
  expect(painter.paint(["a", "c"])).toBe("\u001b[2;1Hc\u001b[K");
  expect(painter.paint(["a", "c"])).toBe("");
  expect(painter.paint(["a"])).toBe("\u001b[2;1H\u001b[K");
});
