/** A flame graph as one SVG file: the wider a frame, the more samples had it; callers below what they call. */

const WIDTH = 1200;
const ROW = 17;
const MARGIN = 10;
const TOP = 44;
/** Narrower frames are left out: nobody would see them. */
const NARROWEST = 0.3;
const CHARACTER = 6.6;

interface Node {
  readonly name: string;
  count: number;
  readonly children: Map<string, Node>;
}

/**
 * Draws samples by stack, frames joined by `;` from the outermost inwards.
 * A frame shows its whole name and share in a tooltip, and takes the whole width when it is clicked (a few lines of script in
 * the file, for browsers; without them it is a picture).
 */
export function flameGraph(stacks: ReadonlyMap<string, number>, title: string): string {
  const root: Node = { name: "all", count: 0, children: new Map() };
  for (const [stack, count] of stacks) {
    let node = root;
    root.count += count;
    for (const name of stack.split(";")) {
      const child: Node = node.children.get(name) ?? { name, count: 0, children: new Map() };
      node.children.set(name, child);
      child.count += count;
      node = child;
    }
  }
  const frames: string[] = [];
  let deepest = 0;
  const draw = (node: Node, x: number, depth: number): void => {
    const width = (node.count / Math.max(1, root.count)) * (WIDTH - 2 * MARGIN);
    if (width < NARROWEST) return;
    deepest = Math.max(deepest, depth);
    frames.push(frame(node, x, depth, width, root.count));
    let at = x;
    for (const child of [...node.children.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      draw(child, at, depth + 1);
      at += (child.count / Math.max(1, root.count)) * (WIDTH - 2 * MARGIN);
    }
  };
  draw(root, MARGIN, 0);
  const height = TOP + (deepest + 1) * ROW + MARGIN;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}">`,
    "<style>text{font:11px monospace;pointer-events:none}rect{stroke:#fff;stroke-width:.5}g.f{cursor:pointer}g.f:hover rect{stroke:#000}</style>",
    `<rect width="${WIDTH}" height="${height}" fill="#fdfdfd"/>`,
    `<text x="${WIDTH / 2}" y="24" text-anchor="middle" style="font-size:15px">${escaped(title)}</text>`,
    // Row 0 at the bottom.
    `<g transform="translate(0 ${TOP + deepest * ROW})">`,
    ...frames,
    "</g>",
    `<script><![CDATA[${SCRIPT}]]></script>`,
    "</svg>",
    "",
  ].join("\n");
}

function frame({ name, count }: Node, x: number, depth: number, width: number, total: number): string {
  const share = `${name} (${count} samples, ${((count / Math.max(1, total)) * 100).toFixed(2)} %)`;
  const y = -depth * ROW;
  return [
    `<g class="f" data-x="${x.toFixed(2)}" data-w="${width.toFixed(2)}" data-d="${depth}" data-n="${escaped(name)}">`,
    `<title>${escaped(share)}</title>`,
    `<rect x="${x.toFixed(2)}" y="${y}" width="${width.toFixed(2)}" height="${ROW - 1}" fill="${colour(name)}"/>`,
    `<text x="${(x + 3).toFixed(2)}" y="${y + 12}">${escaped(shortened(name, width))}</text></g>`,
  ].join("");
}

const shortened = (name: string, width: number): string => {
  const room = Math.floor((width - 6) / CHARACTER);
  return room < 3 ? "" : name.length <= room ? name : `${name.slice(0, room - 2)}..`;
};

/** Warm for programs, cold for the kernel; the same name always the same. */
function colour(name: string): string {
  let hash = 0;
  for (let i = 0; i < name.length; i++) hash = (Math.imul(hash, 31) + name.charCodeAt(i)) >>> 0;
  const hue = name.endsWith("_[k]") ? 200 + (hash % 30) : 15 + (hash % 40);
  return `hsl(${hue} 75% ${62 + (hash % 14)}%)`;
}

const escaped = (text: string): string =>
  text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    // Not characters of XML.
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "_");

/** Gives the frame that was clicked the whole width; the lowest one shows everything again. */
const SCRIPT = `
const all = [...document.querySelectorAll("g.f")];
const num = (g, k) => Number(g.dataset[k]);
for (const g of all) g.addEventListener("click", () => {
  const x = num(g, "x"), w = num(g, "w"), d = num(g, "d"), scale = ${WIDTH - 2 * MARGIN} / w;
  for (const o of all) {
    const ox = num(o, "x"), ow = num(o, "w"), below = num(o, "d") < d;
    const shown = below ? ox <= x + 0.02 && ox + ow >= x + w - 0.02 : ox >= x - 0.02 && ox + ow <= x + w + 0.02;
    o.style.display = shown ? "" : "none";
    if (!shown) continue;
    const nx = below ? ${MARGIN} : ${MARGIN} + (ox - x) * scale, nw = below ? ${WIDTH - 2 * MARGIN} : ow * scale;
    const [rect, text] = [o.querySelector("rect"), o.querySelector("text")], name = o.dataset.n;
    rect.setAttribute("x", nx); rect.setAttribute("width", nw);
    const room = Math.floor((nw - 6) / ${CHARACTER});
    text.setAttribute("x", nx + 3);
    text.textContent = room < 3 ? "" : name.length <= room ? name : name.slice(0, room - 2) + "..";
  }
});
`;
