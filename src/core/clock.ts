/**
 * The gateway's time where its clock may be wrong. A board without a battery boots in 1970, or at the time of its image; until
 * the network has set its clock, time goes on from the last that is known, forwards only, and is flagged.
 */

/** Microseconds since the Unix epoch, as the wall clock and the monotonic clock have them. */
export interface Clocks {
  readonly wallUs: () => number;
  readonly monotonicUs: () => number;
  /** whether the system says that its clock is set from the network */
  readonly synchronised: () => boolean;
}

/** Before this version was made, in microseconds: a clock that stands there is wrong. */
const MADE_US = Date.UTC(2026, 10, 1) * 1000;
/** A clock that is behind by more than this, and not before {@link MADE_US}, is believed: the last known time was wrong. */
const MOST_BEHIND_US = 30 * 24 * 3600 * 1_000_000;
/** A jump of the wall clock: somebody, or the network, has set it. */
const JUMP_US = 5_000_000;

/**
 * Valid unless it stands before the last known time, at the start (ten years before it, and still not before this version was made:
 * then that time was wrong). Valid again once it has passed that time, was set, or is
 * synchronised: a clock that is set while Weir runs is taken for right.
 */
export class GatewayClock {
  readonly #clocks: Clocks;
  /** the last known time and when it was, on the monotonic clock; undefined while the clock is valid */
  #from: { readonly knownUs: number; readonly atUs: number; readonly wallUs: number } | undefined;

  constructor(clocks: Clocks) {
    this.#clocks = clocks;
  }

  /** `knownUs`: the last time that was known, of an earlier run; undefined where there was none. */
  start(knownUs: number | undefined): void {
    const wallUs = this.#clocks.wallUs();
    if (knownUs === undefined || wallUs >= knownUs || this.#clocks.synchronised()) return;
    if (wallUs >= MADE_US && knownUs - wallUs > MOST_BEHIND_US) return;
    this.#from = { knownUs, atUs: this.#clocks.monotonicUs(), wallUs };
  }

  /** Whether the wall clock can be relied on. */
  get valid(): boolean {
    return this.#from === undefined;
  }

  /** Looks whether the clock has been set. Call it every second or so; true when it just became valid. */
  look(): boolean {
    const from = this.#from;
    if (from === undefined) return false;
    const wallUs = this.#clocks.wallUs();
    const ranUs = this.#clocks.monotonicUs() - from.atUs;
    const jumped = Math.abs(wallUs - from.wallUs - ranUs) > JUMP_US;
    if (wallUs < from.knownUs && !jumped && !this.#clocks.synchronised()) return false;
    this.#from = undefined;
    return true;
  }

  /** What to add to the wall clock's time now, in whole microseconds: 0 while it is valid. */
  get offsetUs(): number {
    const from = this.#from;
    if (from === undefined) return 0;
    return Math.round(from.knownUs + this.#clocks.monotonicUs() - from.atUs - this.#clocks.wallUs());
  }

  /** The time now. */
  get nowUs(): number {
    return Math.round(this.#clocks.wallUs() + this.offsetUs);
  }
}
