import { describe, expect, it } from "vitest";
import { GatewayClock } from "../../src/core/clock.ts";
import { Kind, Status } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { flagGiven, given } from "../../src/pipeline/known-time.ts";

const S = 1_000_000;
const KNOWN = 1_795_168_800 * S;

/** A clock whose hands are moved by the test. */
function clockAt(wallUs: number, knownUs: number | undefined) {
  const hands = { wallUs, monotonicUs: 77 * S, synchronised: false };
  const clock = new GatewayClock({
    wallUs: () => hands.wallUs,
    monotonicUs: () => hands.monotonicUs,
    synchronised: () => hands.synchronised,
  });
  clock.start(knownUs);
  const pass = (us: number): void => {
    hands.wallUs += us;
    hands.monotonicUs += us;
  };
  return { clock, hands, pass };
}

describe("the gateway's clock", () => {
  it("is the wall clock where that stands at the last known time or after it, or none is known", () => {
    for (const known of [undefined, KNOWN - S, KNOWN]) {
      const { clock } = clockAt(KNOWN, known);
      expect({ valid: clock.valid, offset: clock.offsetUs, now: clock.nowUs }).toEqual({
        valid: true,
        offset: 0,
        now: KNOWN,
      });
    }
  });

  it("is believed where the last known time must have been wrong: ten years ahead", () => {
    const { clock } = clockAt(KNOWN, KNOWN + 10 * 365 * 24 * 3600 * S);
    expect(clock.valid).toBe(true);
  });

  it("goes on from the last known time, forwards, while the wall clock stands before it", () => {
    const { clock, pass } = clockAt(5 * S, KNOWN);
    expect(clock.valid).toBe(false);
    let before = 0;
    for (let i = 0; i < 10; i++) {
      expect(clock.nowUs).toBe(KNOWN + i * S);
      expect(clock.nowUs).toBeGreaterThan(before);
      before = clock.nowUs;
      pass(S);
      expect(clock.look()).toBe(false);
    }
  });

  it("is right again once it is set, whichever way, and says so once", () => {
    for (const to of [KNOWN + 3600 * S, KNOWN - 3600 * S]) {
      const { clock, hands, pass } = clockAt(5 * S, KNOWN);
      pass(S);
      hands.wallUs = to;
      expect([clock.look(), clock.look()]).toEqual([true, false]);
      expect(clock.nowUs).toBe(to);
    }
  });

  it("is right again once it has passed the last known time, or is synchronised", () => {
    const { clock, pass } = clockAt(KNOWN - 2 * S, KNOWN);
    pass(3 * S);
    expect(clock.look()).toBe(true);
    const other = clockAt(KNOWN - 2 * S, KNOWN);
    other.hands.synchronised = true;
    expect(other.clock.look()).toBe(true);
  });
});

it("what a plugin makes of a time that it was given is flagged, whether it says so or not; a device's own time is not", () => {
  const builder = new FrameBuilder();
  const device = builder.device("d");
  const metric = builder.metric("m");
  const rows: [timeUs: number, status: number][] = [
    [KNOWN + 5_400, 0],
    // It rounds to milliseconds.
    [KNOWN + 5_000, Status.uncertain],
    [KNOWN, Status.gatewayTime],
    [KNOWN + S, 0],
  ];
  for (const [timeUs, status] of rows) builder.add(device, metric, timeUs, Kind.number, status, 1);
  const frame = builder.build();
  flagGiven(frame, given(undefined, KNOWN + 5_400));
  const flag = Status.clockUnsynchronised;
  expect([...frame.status]).toEqual([flag, Status.uncertain | flag, Status.gatewayTime | flag, 0]);
});
