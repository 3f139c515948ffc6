/** Recording what the processors do, for `weir profile`: needs no agent. */
import { setTimeout as sleep } from "node:timers/promises";
import { openSampler, readStack, type Sample, SampleEvent, type Stack } from "./addon/sampler.ts";
import { Symbols } from "./addon/symbols.ts";
import { WeirError } from "./core/errors.ts";

const DRAIN_MS = 50;
/** Different stacks that are kept; samples of further ones count as lost. */
const MOST_STACKS = 65_536;

/** What to record. */
export interface ProfileOptions {
  readonly forMs: number;
  /** of one process; undefined: of all */
  readonly pid: number | undefined;
  /** samples a second, on each processor */
  readonly perSecond: number;
}

/** A recording. */
export interface Profile {
  /** samples by stack, from the process inwards, joined by `;`: what flame graph tools call folded */
  readonly stacks: ReadonlyMap<string, number>;
  readonly samples: number;
  /** samples that had no room */
  readonly lost: number;
  /** false when the kernel hides its addresses from this user */
  readonly kernelKnown: boolean;
}

/** A stack of one process, and how often it was seen. */
interface Seen extends Stack {
  readonly pid: number;
  count: number;
}

/**
 * Different stacks by process and XXH128 of their addresses: 0.4 us a sample of 60 of them, where texts as keys took 6 us and a
 * kilobyte each. Nobody gains by two stacks of his own that look like one.
 */
class Stacks {
  readonly #known = new Map<number, Map<bigint, Seen>>();
  #count = 0;

  /** `key`: of the sample's callchain. False when there is no room for one more. */
  add({ pid, callchain }: Sample, key: bigint): boolean {
    let ofProcess = this.#known.get(pid);
    if (ofProcess === undefined) {
      ofProcess = new Map();
      this.#known.set(pid, ofProcess);
    }
    const seen = ofProcess.get(key);
    if (seen !== undefined) seen.count += 1;
    else if (this.#count >= MOST_STACKS) return false;
    else {
      ofProcess.set(key, { pid, ...readStack(callchain), count: 1 });
      this.#count += 1;
    }
    return true;
  }

  *all(): Generator<Seen> {
    for (const ofProcess of this.#known.values()) yield* ofProcess.values();
  }
}

/**
 * Samples every processor for a time, and names what ran. Idle processors are left out.
 * @throws WeirError `probe.unavailable` when this machine or user can't
 */
export async function recordProfile(options: ProfileOptions, signal: AbortSignal): Promise<Profile> {
  const opened = openSampler({ event: SampleEvent.cpuClock, perSecond: options.perSecond });
  if (!opened.on) throw new WeirError("probe.unavailable", `no profile: ${opened.reason}; ${opened.remedy}`);
  const { sampler } = opened;
  const symbols = new Symbols();
  const stacks = new Stacks();
  let unkept = 0;
  const keep = (sample: Sample): void => {
    const { pid } = sample;
    if (pid === 0 || (options.pid !== undefined && pid !== options.pid)) return;
    symbols.see(pid);
    if (!stacks.add(sample, sampler.stackKey(sample.callchain))) unkept += 1;
  };
  const drain = (): void => sampler.drain(keep, (pid, name) => symbols.rename(pid, name));
  try {
    const end = performance.now() + options.forMs;
    while (performance.now() < end && !signal.aborted) {
      await sleep(Math.min(DRAIN_MS, Math.max(1, end - performance.now())), undefined, { signal }).catch(
        () => {},
      );
      drain();
    }
    const { lost } = sampler.counts();
    symbols.refresh();
    return { ...fold(stacks.all(), symbols), lost: lost + unkept, kernelKnown: symbols.kernelKnown };
  } finally {
    sampler.close();
  }
}

function fold(stacks: Iterable<Seen>, symbols: Symbols): { stacks: Map<string, number>; samples: number } {
  const folded = new Map<string, number>();
  let samples = 0;
  for (const { pid, kernel, user, count } of stacks) {
    const frames = [
      symbols.processName(pid),
      ...user.map((address) => symbols.user(pid, address)).reverse(),
      ...kernel.map((address) => `${symbols.kernel(address)}_[k]`).reverse(),
    ];
    // The format's own signs; and names come from files that anybody may have written.
    const key = frames.map((frame) => frame.replace(/[;\u0000-\u001f\u007f-\u009f]/g, "_")).join(";");
    folded.set(key, (folded.get(key) ?? 0) + count);
    samples += count;
  }
  return { stacks: folded, samples };
}
