/**
 * Which devices are there. One whose last will came, or that was silent for longer than its rule's `staleAfter`, is said to be
 * gone, once, and back, once, with its next message (docs/specs/mapping.md, "Availability"). What it says goes the way of the
 * device's own messages, so it is in order with them, committed and counted.
 */
import type { Frame } from "../core/frame.ts";
import type { StageCount } from "../core/ledger.ts";
import type { DeviceMessage, Intake } from "../core/ports.ts";
import type { DeviceRule } from "./options.ts";

/** How often silence is looked for, in milliseconds. */
const LOOK_MS = 1_000;
/** Devices that are watched, and that are known to be gone, at most. */
const MOST_DEVICES = 10_000;
/** The ledger's line of what is said here. */
export const PRESENCE = "presence";

/** The rule of what is said here. */
export const PRESENCE_RULES: readonly DeviceRule[] = [
  { topic: "{device}", skip: [], decoder: "availability", metrics: {} },
];

/** What is known of the rules. */
export interface PresenceRules {
  /** a rule whose decoder is `availability`, for what is said here */
  readonly says: () => number;
  /** whether a rule's messages tell of availability themselves */
  readonly tells: (rule: number) => boolean;
  /** how long a device of this rule may be silent, in milliseconds; undefined: for ever */
  readonly staleAfterMs: (rule: number) => number | undefined;
}

interface Watched {
  seenMs: number;
  staleAfterMs: number;
}

/** Stands before the intake of device messages. */
export class Presence implements Intake {
  readonly #next: Intake;
  readonly #rules: PresenceRules;
  readonly #count: StageCount;
  readonly #watched = new Map<string, Watched>();
  readonly #gone = new Set<string>();
  /** devices that tell of their availability themselves */
  readonly #telling = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  /** `count`: its own line, to which messages of devices that found no place among the watched add `unwatched`. */
  constructor(next: Intake, rules: PresenceRules, count: StageCount) {
    this.#next = next;
    this.#rules = rules;
    this.#count = count;
  }

  /** Begins to look for silence. */
  start(): void {
    this.#timer = setInterval(() => this.#look(performance.now()), LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** A device of an earlier run: one that was gone still is, of one that was there the silence counts from now on. */
  restore(device: string, gone: boolean, staleAfterMs: number | undefined): void {
    if (this.#watched.has(device)) return;
    if (!gone && staleAfterMs !== undefined) this.#watch(device, staleAfterMs);
    else if (gone && this.#gone.size < MOST_DEVICES) this.#gone.add(device);
  }

  message(message: DeviceMessage): void {
    const { route, retained } = message;
    const { device, rule } = route;
    if (this.#rules.tells(rule)) {
      if (this.#telling.size < MOST_DEVICES) this.#telling.add(device);
      this.#gone.delete(device);
    } else if (!retained) {
      if (this.#gone.size > 0 && this.#gone.delete(device)) this.#say(device, true, message.timeUs);
      const staleAfterMs = this.#rules.staleAfterMs(rule);
      if (staleAfterMs !== undefined) this.#watch(device, staleAfterMs);
    }
    this.#next.message(message);
  }

  frame(source: string, frame: Frame): boolean {
    return this.#next.frame(source, frame);
  }

  /** A device's last will came. One that tells of its availability itself has just done so. */
  gone(device: string): void {
    if (!this.#telling.has(device)) this.#lose(device);
  }

  #watch(device: string, staleAfterMs: number): void {
    const known = this.#watched.get(device);
    if (known !== undefined) {
      known.seenMs = performance.now();
      known.staleAfterMs = staleAfterMs;
    } else if (this.#watched.size < MOST_DEVICES)
      this.#watched.set(device, { seenMs: performance.now(), staleAfterMs });
    else this.#count.note("unwatched", 1);
  }

  #look(nowMs: number): void {
    for (const [device, { seenMs, staleAfterMs }] of this.#watched) {
      if (nowMs - seenMs < staleAfterMs) continue;
      this.#watched.delete(device);
      this.#lose(device);
    }
  }

  #lose(device: string): void {
    if (this.#gone.has(device) || this.#gone.size >= MOST_DEVICES) return;
    this.#gone.add(device);
    this.#say(device, false, Date.now() * 1000);
  }

  #say(device: string, available: boolean, timeUs: number): void {
    this.#next.message({
      topic: PRESENCE,
      route: { device, channel: "", plugin: undefined, rule: this.#rules.says() },
      payload: Buffer.from(available ? "online" : "offline"),
      timeUs,
      qos: 1,
      retained: false,
      source: PRESENCE,
      settle: undefined,
    });
  }
}
