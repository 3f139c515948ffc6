/** Tells where devices come from, as their topics first show up: for their `meta`. */
import { type DeviceAbout, type DeviceNews, mergeAbout } from "../core/device.ts";
import { messageOf } from "../core/errors.ts";
import type { Route } from "../core/ports.ts";
import type { DeviceRule } from "./options.ts";

/** How often what is new is told, in milliseconds. */
const TELL_MS = 1_000;
/** Devices whose rule is remembered, and that wait to be told of. */
const MOST_DEVICES = 10_000;

/** What waits to be told, in characters of JSON: whoever tells more than that in a second is not heard. */
const MOST_CHARACTERS = 4 * 2 ** 20;

/** Decoders whose messages say nothing of where a device's values come from. */
const SILENT: readonly string[] = ["availability", "about"];

/** Collects what is new of devices and hands it on, some at a time. */
export class Introductions {
  readonly #rules: () => readonly DeviceRule[];
  readonly #tell: (news: readonly DeviceNews[]) => Promise<void>;
  /** the rule that each device was told with: of several, the first in the list is its */
  readonly #told = new Map<string, number>();
  #waiting = new Map<string, DeviceNews>();
  #characters = 0;
  #timer: NodeJS.Timeout | undefined;
  #log: (problem: string) => void;

  /** `rules`: the list that routes point into. */
  constructor(
    rules: () => readonly DeviceRule[],
    tell: (news: readonly DeviceNews[]) => Promise<void>,
    log: (problem: string) => void,
  ) {
    this.#rules = rules;
    this.#tell = tell;
    this.#log = log;
  }

  start(): void {
    this.#timer = setInterval(() => this.#flush(), TELL_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** A topic of a source has led to a device: once for each topic, and again when it was forgotten meanwhile. */
  met(source: string, { device, rule, plugin }: Route): void {
    const { topic, decoder = "json", metrics = {} } = this.#rules()[rule] ?? {};
    if (device === "" || topic === undefined || SILENT.includes(decoder)) return;
    const before = this.#told.get(device);
    if (before !== undefined && before <= rule) return;
    if (this.#told.size >= MOST_DEVICES) this.#told.clear();
    this.#told.set(device, rule);
    this.#wait({ device, about: { source, rule: topic, decoder: plugin ?? decoder, ...described(metrics) } });
  }

  /** A device, or its bridge, says something of itself. */
  learn(news: readonly DeviceNews[]): void {
    for (const one of news) this.#wait(one);
  }

  /** The rules have changed. */
  forget(): void {
    this.#told.clear();
  }

  #wait({ device, about }: DeviceNews): void {
    const before = this.#waiting.get(device);
    if (before === undefined && this.#waiting.size >= MOST_DEVICES) return;
    const characters = JSON.stringify(about).length;
    if (this.#characters + characters > MOST_CHARACTERS) return;
    this.#characters += characters;
    this.#waiting.set(device, {
      device,
      about: before === undefined ? about : mergeAbout(before.about, about),
    });
  }

  #flush(): void {
    if (this.#waiting.size === 0) return;
    const news = [...this.#waiting.values()];
    this.#waiting = new Map();
    this.#characters = 0;
    this.#tell(news).catch((thrown: unknown) => this.#log(`what is known of devices: ${messageOf(thrown)}`));
  }
}

/** What a rule says of metrics beyond what their samples say. */
function described(metrics: DeviceRule["metrics"]): Pick<DeviceAbout, "metrics"> {
  const said = Object.entries(metrics).flatMap(([name, { description }]) =>
    description === undefined ? [] : [[name, { description }] as const],
  );
  return said.length === 0 ? {} : { metrics: Object.fromEntries(said) };
}
