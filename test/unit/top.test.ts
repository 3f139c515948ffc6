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

test("what any stage lost, dropped or rejected is in the headline, and the stage among the sources", () => {
  const now = look(12, 5000, 1);
  const lines = [
    ...now.ledger.lines,
    { ...line("kernel", "exec", 9), dropped: 400 },
    { ...line("kernel", "oom", 9), lost: 3 },
    { ...line("decode", "devices", 9), rejected: 20 },
    line("kernel", "tcp", 9),
  ];
  const shown = screen(figuresOf(look(10, 0, 1), { ...now, ledger: { epoch: "00", lines } }), 80, 24);
  expect(shown[1]).toMatch(/lost 3 {2}dropped 400 {2}rejected 20$/);
  expect(shown.filter((text) => /^kernel|^decode/.test(text)).map((text) => text.split(/ {2,}/))).toEqual([
    ["kernel exec", "4.5", "4.5", "0", "400", "0"],
    ["kernel oom", "4.5", "4.5", "3", "0", "0"],
    ["decode devices", "4.5", "4.5", "0", "0", "20"],
  ]);
});

test("the screen fits 80x24 whatever there is to show, and says what it leaves out", () => {
  for (const many of [0, 1, 5, 200]) {
    const lines = screen(figuresOf(look(10, 0, many), look(11, 7, many)), 80, 24);
    expect(lines.length).toBeLessThanOrEqual(24);
    for (const text of lines) expect(text.length).toBeLessThanOrEqual(80);
    if (many === 200) expect(lines.join("\n")).toMatch(/… 19\d more/);
  }
});

test("where there is little room, what happens is shown before what is quiet, in a row at least of each section that is", () => {
  const now = look(11, 0, 20);
  const lines = now.ledger.lines.map((one) => (one.name === "name-19" ? { ...one, in: 90, out: 90 } : one));
  const busy = figuresOf(look(10, 0, 20), { ...now, ledger: { epoch: "00", lines } });
  const source = / {2}90 {8}90 /;
  for (const [columns, rows] of [
    [80, 24],
    [40, 10],
    [40, 6],
  ] as const) {
    const shown = screen(busy, columns, rows);
    expect(shown.length).toBeLessThanOrEqual(rows);
    if (columns === 80) expect(shown.find((text) => /^name-19/.test(text))).toMatch(source);
    const heads = shown.flatMap((text, i) => (/^[A-Z]{4}/.test(text) ? [i] : []));
    expect(heads.length).toBeGreaterThan(0);
    for (const at of heads) expect(shown[at + 1]).toMatch(/^(?:name-|device|…)/);
  }
  expect(screen(busy, 40, 10).join("\n")).toContain("SOURCE");
});

test("only what changed is written", () => {
  const painter = new Painter();
  expect(painter.paint(["a", "b"])).toContain("\u001b[2;1Hb");
  expect(painter.paint(["a", "c"])).toBe("\u001b[2;1Hc");
  expect(painter.paint(["a", "c"])).toBe("");
  expect(painter.paint(["a"])).toBe("\u001b[2;1H\u001b[K");
  painter.paint(["rate 100/s of 7", "\u001b[1mbold 1\u001b[22m", "Straße 1"]);
  expect(painter.paint(["rate 120/s of 7", "\u001b[1mbold 2\u001b[22m", "Straße 2"])).toBe(
    "\u001b[1;7H2\u001b[2;1H\u001b[1mbold 2\u001b[22m\u001b[K\u001b[3;1HStraße 2\u001b[K",
  );
});

/** What a terminal of 80x24 shows after these writes; of the control sequences it knows those that top uses. */
function shownBy(writes: readonly string[]): string[] {
  const rows = Array.from({ length: 24 }, () => "".padEnd(80));
  let [row, column] = [0, 0];
  for (const [part, y, x, clear, colour] of writes
    .join("")
    .matchAll(/\u001b\[(\d+);(\d+)H|(\u001b\[K)|(\u001b\[\d*m)|[^\u001b]/gs)) {
    const text = rows[row] ?? "";
    if (y !== undefined) [row, column] = [Number(y) - 1, Number(x) - 1];
    else if (clear !== undefined) rows[row] = text.slice(0, column).padEnd(80);
    else if (colour === undefined) {
      rows[row] = text.slice(0, column) + part + text.slice(column + 1);
      column += 1;
    }
  }
  return rows.map((text) => text.trimEnd());
}

test("a busy screen of 80x24 takes less than a second of a 9600 baud line for each refresh, and shows what is meant", () => {
  const painter = new Painter();
  const writes = [painter.paint(screen(figuresOf(look(10, 0, 5), look(12, 1_000, 5)), 80, 24))];
  expect(writes[0]?.length).toBeLessThan(2_200);
  for (let at = 12; at < 40; at += 2) {
    const figures = figuresOf(look(at, 997 * at, 5), look(at + 2, 1_234 * at ** 2, 5));
    const lines = screen(figures, 80, 24);
    writes.push(painter.paint(lines));
    expect(writes.at(-1)?.length).toBeLessThan(960);
    expect(shownBy(writes)).toEqual(
      Array.from({ length: 24 }, (_, i) => shownBy([`\u001b[${i + 1};1H${lines[i] ?? ""}`])[i] ?? ""),
    );
  }
});
