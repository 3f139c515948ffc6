/** Curves over time as an SVG, one panel below the other. */

/** One panel. */
export interface Panel {
  readonly title: string;
  readonly unit: string;
  /** curves by name, a value for each look; NaN leaves a gap */
  readonly curves: Readonly<Record<string, readonly number[]>>;
}

const WIDTH = 900;
const HEIGHT = 160;
const LEFT = 70;
const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"];

/** The picture; `seconds` between two looks. */
export function plot(title: string, seconds: number, panels: readonly Panel[]): string {
  const parts = panels.map((panel, i) => draw(panel, 40 + i * (HEIGHT + 40), seconds));
  const height = 40 + panels.length * (HEIGHT + 40);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="16">${title}</text>
${parts.join("\n")}
</svg>
`;
}

function draw({ title, unit, curves }: Panel, top: number, seconds: number): string {
  const values = Object.values(curves).flat().filter(Number.isFinite);
  const most = Math.max(1e-9, ...values) * 1.05;
  const looks = Math.max(2, ...Object.values(curves).map(({ length }) => length));
  const x = (i: number): number => LEFT + (i / (looks - 1)) * (WIDTH - LEFT - 10);
  const y = (value: number): number => top + HEIGHT - (value / most) * HEIGHT;
  const lines = Object.entries(curves).map(([name, curve], i) => {
    const colour = COLOURS[i % COLOURS.length] ?? "black";
    const points = curve.flatMap((value, at) =>
      Number.isFinite(value) ? [`${x(at).toFixed(1)},${y(value).toFixed(1)}`] : [],
    );
    return `<polyline fill="none" stroke="${colour}" points="${points.join(" ")}"/><text x="${LEFT + 10 + i * 140}" y="${top + 14}" fill="${colour}">${name}</text>`;
  });
  const minutes = ((looks - 1) * seconds) / 60;
  return `<text x="10" y="${top - 8}">${title}, ${unit}</text>
<path d="M${LEFT},${top}V${top + HEIGHT}H${WIDTH - 10}" fill="none" stroke="#888"/>
<text x="10" y="${top + 12}">${most.toPrecision(3)}</text><text x="10" y="${top + HEIGHT}">0</text><text x="${WIDTH - 70}" y="${top + HEIGHT + 14}">${minutes.toFixed(1)} min</text>
${lines.join("\n")}`;
}
