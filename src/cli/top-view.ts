/** The screen of `weir top`, as lines of text: 80 columns and 24 lines are enough, more show more. */
import { formatSize } from "../core/units.ts";
import { bold, dim, printable, red, yellow } from "./output.ts";
import { type Figures, sum } from "./top-figures.ts";

/** The lines of the screen, none longer than `columns`, at most `rows`. */
export function screen(figures: Figures, columns: number, rows: number): string[] {
  const lines: string[] = [];
  const put = (text: string, paint: (text: string) => string = (plain) => plain): void => {
    lines.push(paint(printable(text).slice(0, columns)));
  };
  const { gateway, version, epoch, uptimeS } = figures;
  put(`weir ${version}  ${gateway}  epoch ${epoch}  up ${duration(uptimeS)}`, bold);
  const commit = sum(figures.commit, "outRate");
  const { lost, dropped, rejected } = figures.losses;
  put(
    `in ${count(sum(figures.sources, "inRate"))}/s  committed ${count(commit)} samples/s  lost ${count(lost)}  ` +
      `dropped ${count(dropped)}  rejected ${count(rejected)}`,
    lost > 0 ? red : undefined,
  );
  put(
    `${figures.processes.map(({ name, cpu, pssBytes }) => `${name} ${percent(cpu)} ${formatSize(pssBytes)}`).join("  ")}  ` +
      `lag ${ms(figures.loopLagMs)}  loop ${percent(figures.loopBusy)}  fds ${figures.openFds}`,
  );
  for (const trouble of figures.troubles.slice(0, 3)) put(`! ${trouble}`, yellow);

  // What is left is shared: each section shows what matters most of it. Where not even a row of each fits, some give way.
  const left = rows - lines.length - 1;
  const all = [
    latencySection(figures),
    sourceSection(figures),
    outboxSection(figures),
    pluginSection(figures),
  ].filter(({ body }) => body.length > 0);
  const kept = new Set(all.toSorted((a, b) => a.rank - b.rank).slice(0, Math.max(1, Math.floor(left / 2))));
  const sections = all.filter((section) => kept.has(section));
  const room = shares(
    sections.map(({ body }) => body.length),
    left - sections.length,
  );
  sections.forEach(({ head, body }, i) => {
    put(head, dim);
    const most = room[i] ?? 0;
    const shown = body.length > most ? busiest(body, most - 1) : body;
    for (const { text } of shown) put(text);
    if (shown.length < body.length && most > 0) put(`… ${body.length - shown.length} more`, dim);
  });
  const off = figures.probesOff.length === 0 ? "" : `; off: ${figures.probesOff.join(" ")}`;
  put(`probes: ${figures.probesOn} on${off}`, dim);
  return lines.slice(0, rows);
}

interface Row {
  readonly text: string;
  /** nothing happens there: the first to give way */
  readonly quiet: boolean;
}

interface Section {
  readonly head: string;
  readonly body: readonly Row[];
  /** the greatest gives way first on a small screen */
  readonly rank: number;
}

/** At most so many rows, those where something happens before others; they stay in their order. */
function busiest(body: readonly Row[], most: number): readonly Row[] {
  const kept = new Set(
    body.toSorted((a, b) => Number(a.quiet) - Number(b.quiet)).slice(0, Math.max(0, most)),
  );
  return body.filter((one) => kept.has(one));
}

const latencySection = ({ latencies }: Figures): Section => ({
  head: row("LATENCY", "P50", "P99"),
  body: latencies.map(({ name, p50, p99 }) => ({
    text: row(
      name.replace("device_ack", "device to PUBACK").replace(/^hold$/, "path held"),
      ms(p50),
      ms(p99),
    ),
    quiet: p99 === undefined,
  })),
  rank: 3,
});

const sourceSection = ({ sources, short }: Figures): Section => ({
  head: row("SOURCE", "IN/s", "OUT/s", "LOST", "DROPPED", "REJECTED"),
  body: [...sources, ...short].map(({ name, inRate, outRate, lost, dropped, rejected }) => ({
    text: row(name, count(inRate), count(outRate), count(lost), count(dropped), count(rejected)),
    quiet: inRate + outRate + lost + dropped + rejected === 0,
  })),
  rank: 0,
});

const outboxSection = ({ outbox, outboxUsedBytes, outboxLimitBytes }: Figures): Section => ({
  head: row(
    `OUTBOX ${formatSize(outboxUsedBytes)}/${formatSize(outboxLimitBytes)}`,
    "ACK/s",
    "HELD",
    "OLDEST",
    "DROPPED",
    "LOST",
  ),
  body: outbox.map(({ name, outRate, held, oldestS, dropped, lost }) => ({
    text: row(
      name,
      count(outRate),
      count(held),
      oldestS === undefined ? "" : duration(Math.max(0, oldestS)),
      count(dropped),
      count(lost),
    ),
    quiet: outRate + held + dropped + lost === 0,
  })),
  rank: 1,
});

const pluginSection = ({ plugins }: Figures): Section => ({
  head: row("PLUGIN", "ROWS/s", "BUSY", "MEMORY", "FAILURES", "STATE"),
  body: plugins.map(({ name, state, inRate, busy, memoryBytes, failures }) => ({
    text: row(name, count(inRate), percent(busy), formatSize(memoryBytes), count(failures), state),
    quiet: inRate + failures === 0 && state === "on",
  })),
  rank: 2,
});

const row = (name: string, ...cells: readonly string[]): string =>
  name.slice(0, 25).padEnd(26) + cells.map((cell) => cell.padStart(10)).join("");

/** Divides `room` among sections: the small get what they need, the others share what is left. */
function shares(wanted: readonly number[], room: number): number[] {
  const given = wanted.map(() => 0);
  let left = Math.max(0, room);
  while (left > 0) {
    const open = wanted.flatMap((want, i) => (want > (given[i] ?? 0) ? [i] : []));
    if (open.length === 0) break;
    for (const i of open) {
      if (left === 0) break;
      given[i] = (given[i] ?? 0) + 1;
      left -= 1;
    }
  }
  return given;
}

/** `1234567` as `1.23M`. */
function count(value: number): string {
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const)
    if (value >= size) return `${(value / size).toPrecision(3)}${unit}`;
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

const ms = (value: number | undefined): string =>
  value === undefined ? "" : `${Number(value.toPrecision(3))} ms`;
const percent = (value: number): string => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;

function duration(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3600)
    return `${Math.floor(seconds / 60)}m${String(Math.floor(seconds % 60)).padStart(2, "0")}s`;
  if (seconds < 86_400)
    return `${Math.floor(seconds / 3600)}h${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")}m`;
  return `${Math.floor(seconds / 86_400)}d${Math.floor((seconds % 86_400) / 3600)}h`;
}

/** Keeps what a terminal shows, and gives the bytes that change it: at 9,600 baud a full screen takes two seconds. */
export class Painter {
  #shown: readonly string[] = [];

  /** What to write so that these lines are on the screen. */
  paint(lines: readonly string[]): string {
    let out = "";
    const most = Math.max(lines.length, this.#shown.length);
    for (let i = 0; i < most; i++) {
      out += difference(i + 1, this.#shown[i] ?? "", lines[i] ?? "");
    }
    this.#shown = lines;
    return out;
  }

  /** Nothing is known of the screen any more, as after its size changed. */
  forget(): string {
    this.#shown = [];
    return "\u001b[2J";
  }
}

/** Characters of one column each, without colours. */
const PLAIN = /^[\x20-\x7e]*$/;

/** What turns one text in a row of the screen into another: the part that differs, where columns can be counted. */
function difference(row: number, before: string, now: string): string {
  if (before === now) return "";
  if (!PLAIN.test(before) || !PLAIN.test(now)) return `\u001b[${row};1H${now}\u001b[K`;
  let from = 0;
  while (from < now.length && now[from] === before[from]) from += 1;
  let to = now.length;
  if (now.length === before.length) while (now[to - 1] === before[to - 1]) to -= 1;
  const rest = now.length < before.length ? "\u001b[K" : "";
  return `\u001b[${row};${from + 1}H${now.slice(from, to)}${rest}`;
}
