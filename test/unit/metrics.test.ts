import { expect, test } from "vitest";
import { Histogram } from "../../src/core/histogram.ts";
import { MetricsPage } from "../../src/telemetry/metrics.ts";

/** The lines of a metric's values. */
const linesOf = (page: MetricsPage, name: string): string[] =>
  page
    .text()
    .split("\n")
    .filter((line) => line.startsWith(name));

test("a metric has 200 sets of labels at most; what comes after them is added up under `overflow`", () => {
  const page = new MetricsPage();
  for (let i = 0; i < 1_000; i++) page.add("weir_plugin_failures_total", [`plugin-${i}`], 2);
  page.add("weir_plugin_failures_total", ["plugin-7"], 5);
  const lines = linesOf(page, "weir_plugin_failures_total{");
  expect(lines.length).toBe(201);
  expect(lines).toContain('weir_plugin_failures_total{plugin="plugin-7"} 7');
  expect(lines.at(-1)).toBe('weir_plugin_failures_total{plugin="overflow"} 1600');
});

test("so has one of several labels, and a ledger of many names", () => {
  const page = new MetricsPage();
  const counts = { in: 1, out: 1, lost: 0, dropped: 0, rejected: 0, held: 0, also: {} };
  for (let i = 0; i < 300; i++)
    page.addLine({ stage: "outbox", name: `up-${i}/data`, unit: "samples", ...counts });
  expect(linesOf(page, "weir_outbox_in_samples_total{").at(-1)).toBe(
    'weir_outbox_in_samples_total{uplink="overflow",stream="overflow"} 100',
  );
});

test("histograms of what overflows are added up, too", () => {
  const page = new MetricsPage();
  for (let i = 0; i < 210; i++) {
    const histogram = new Histogram();
    histogram.observe(0.5);
    page.add("weir_publish_seconds", [`up-${i}`], histogram);
  }
  expect(linesOf(page, 'weir_publish_seconds_count{uplink="overflow"}')).toEqual([
    'weir_publish_seconds_count{uplink="overflow"} 10',
  ]);
});

test("label values can't break the page", () => {
  const page = new MetricsPage();
  page.add("weir_plugin_up", ['a"b\\c\nd'], 1);
  expect(linesOf(page, "weir_plugin_up{")).toEqual(['weir_plugin_up{plugin="a\\"b\\\\c\\nd"} 1']);
});
