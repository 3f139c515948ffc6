/** Which rows of a frame a plugin gets: those of its sources, devices and metrics. The others pass it by. */
import type { Frame } from "../core/frame.ts";
import { concat, select } from "../core/frame-builder.ts";
import { type Matcher, matcher } from "../core/glob.ts";
import type { PluginOptions } from "./options.ts";

/** Sample plugins touch demonstration devices only, unless weir.yaml says otherwise. */
const SAMPLES: ReadonlySet<string> = new Set(["deadband", "scale"]);

/** Which rows a plugin gets. */
export interface Binding {
  readonly sources: readonly string[];
  readonly devices: readonly string[];
  readonly metrics: readonly string[];
}

/** The binding of a plugin: what weir.yaml says, else device streams, every device. */
export function bindingOf(name: string, options: PluginOptions): Binding {
  const {
    sources = ["devices"],
    devices = SAMPLES.has(name) ? ["demo-*"] : ["*"],
    metrics = ["*"],
  } = options.bind;
  return { sources, devices, metrics };
}

/** A frame, divided between a plugin and what passes it by. `bound` undefined: nothing is bound; `passing`: everything is. */
export interface Divided {
  readonly bound: Frame | undefined;
  readonly passing: Frame | undefined;
}

/** The bindings of one plugin, with answers remembered for each name. */
export class RowBinding {
  readonly #sources: Matcher;
  readonly #devices: Matcher;
  readonly #metrics: Matcher;

  constructor(binding: Binding) {
    this.#sources = matcher(binding.sources);
    this.#devices = matcher(binding.devices);
    this.#metrics = matcher(binding.metrics);
  }

  /** Whether rows of this device may be the plugin's. */
  device(name: string): boolean {
    return this.#devices(name);
  }

  /** Divides a frame. Copies only where some rows are bound and some are not. */
  divide(source: string, frame: Frame): Divided {
    if (frame.rows === 0 || !this.#sources(source)) return { bound: undefined, passing: frame };
    const devices = maskOf(frame.devices, this.#devices);
    const metrics = maskOf(frame.metrics, this.#metrics);
    if (devices.kind === "none" || metrics.kind === "none") return { bound: undefined, passing: frame };
    if (devices.kind === "all" && metrics.kind === "all") return { bound: frame, passing: undefined };
    const keep = new Uint8Array(frame.rows);
    let rows = 0;
    for (let row = 0; row < frame.rows; row++) {
      const wanted =
        (devices.mask[frame.device[row] ?? 0] ?? 0) & (metrics.mask[frame.metric[row] ?? 0] ?? 0);
      keep[row] = wanted;
      rows += wanted;
    }
    if (rows === 0) return { bound: undefined, passing: frame };
    if (rows === frame.rows) return { bound: frame, passing: undefined };
    return {
      bound: select(frame, keep),
      passing: select(
        frame,
        keep.map((kept) => 1 - kept),
      ),
    };
  }

  /** The rows whose device is the plugin's, and how many were not. */
  admit(frame: Frame): { readonly frame: Frame; readonly refused: number } {
    if (frame.rows === 0) return { frame, refused: 0 };
    const devices = maskOf(frame.devices, this.#devices);
    if (devices.kind === "all") return { frame, refused: 0 };
    const keep = new Uint8Array(frame.rows);
    let rows = 0;
    for (let row = 0; row < frame.rows; row++) {
      const wanted = devices.mask[frame.device[row] ?? 0] ?? 0;
      keep[row] = wanted;
      rows += wanted;
    }
    if (rows === frame.rows) return { frame, refused: 0 };
    return { frame: select(frame, keep), refused: frame.rows - rows };
  }
}

interface Mask {
  readonly kind: "all" | "none" | "some";
  readonly mask: Uint8Array;
}

function maskOf(names: readonly string[], matches: Matcher): Mask {
  const mask = new Uint8Array(names.length);
  let wanted = 0;
  for (let i = 0; i < names.length; i++) {
    const is = matches(names[i] ?? "") ? 1 : 0;
    mask[i] = is;
    wanted += is;
  }
  return { kind: wanted === names.length ? "all" : wanted === 0 ? "none" : "some", mask };
}

/** The rows of both, those that passed first. Copies only where both have rows. */
export function join(passing: Frame | undefined, rows: Frame): Frame {
  if (passing === undefined || passing.rows === 0) return rows;
  return rows.rows === 0 ? passing : concat([passing, rows]);
}
