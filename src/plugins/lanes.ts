/**
 * A plugin's lanes, taken as one instance. Each lane is an instance on a thread of its own and has the devices that
 * {@link laneOf} gives it; a call is divided by device, goes to its lanes side by side, and is answered once all of them
 * have answered. So one chunk stays one transaction, and messages are acknowledged in the order they came.
 */
import { messageOf } from "../core/errors.ts";
import { Frame } from "../core/frame.ts";
import { concat, FrameBuilder } from "../core/frame-builder.ts";
import { type Messages, pick } from "../core/messages.ts";
import type { StateEntry } from "../core/ports.ts";
import type { Callable, InstanceFailure, InstanceResult } from "./instance.ts";
import { laneOf } from "./lane-of.ts";
import type { InstanceMemory } from "./wire.ts";

/** Devices whose lane is remembered; one that invents names must not fill the memory. */
const MEMO_ENTRIES = 65_536;

type Reply = InstanceResult | InstanceFailure;
/** What a lane is asked: undefined where it has nothing to do. */
type Asked = { readonly reply: Promise<Reply>; readonly messages?: readonly number[] } | undefined;

/** Two lanes or more. */
export class Lanes implements Callable {
  readonly #lanes: readonly Callable[];
  readonly #memo = new Map<string, number>();

  constructor(lanes: readonly Callable[]) {
    this.#lanes = lanes;
  }

  get failure(): InstanceFailure | undefined {
    return this.#lanes.find(({ failure }) => failure !== undefined)?.failure;
  }

  /** Of all threads together. */
  get busyMs(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.busyMs, 0);
  }

  get stateBytes(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.stateBytes, 0);
  }

  /** Of all threads together. */
  get memory(): InstanceMemory {
    return this.#lanes.reduce(
      (sum, { memory }) => ({
        wasmBytes: sum.wasmBytes + memory.wasmBytes,
        heapBytes: sum.heapBytes + memory.heapBytes,
      }),
      { wasmBytes: 0, heapBytes: 0 },
    );
  }

  get retired(): boolean {
    return this.#lanes.some(({ retired }) => retired);
  }

  async prepare(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.prepare()));
  }

  /** Each lane gets the state of its own devices. */
  async open(state: readonly StateEntry[], limitMs?: number): Promise<Reply> {
    const parts = this.#lanes.map((): StateEntry[] => []);
    for (const entry of state) if (entry.scope !== "") parts[this.#laneOf(entry.scope)]?.push(entry);
    return await join(this.#lanes.map((lane, at) => ({ reply: lane.open(parts[at] ?? [], limitMs) })));
  }

  transform(frame: Frame): Promise<Reply> {
    const lanes = frame.devices.map((device) => this.#laneOf(device));
    const [only] = lanes;
    if (only !== undefined && lanes.every((lane) => lane === only)) {
      return this.#lanes[only]?.transform(frame) ?? nothing();
    }
    const masks = this.#lanes.map(() => new Uint8Array(frame.rows));
    const rows = new Uint32Array(this.#lanes.length);
    for (let row = 0; row < frame.rows; row++) {
      const lane = lanes[frame.device[row] ?? 0] ?? 0;
      const mask = masks[lane];
      if (mask !== undefined) mask[row] = 1;
      rows[lane] = (rows[lane] ?? 0) + 1;
    }
    return join(
      this.#lanes.map((lane, at) => {
        if (rows[at] === 0) return undefined;
        const builder = new FrameBuilder(rows[at]);
        builder.append(frame, 0, frame.rows, masks[at]);
        return { reply: lane.transform(builder.build()) };
      }),
    );
  }

  decode(messages: Messages): Promise<Reply> {
    const lanes = messages.devices.map((device) => this.#laneOf(device));
    const parts = this.#lanes.map((): number[] => []);
    messages.device.forEach((device, index) => {
      parts[lanes[device] ?? 0]?.push(index);
    });
    return join(
      this.#lanes.map((lane, at) => {
        const indexes = parts[at] ?? [];
        if (indexes.length === 0) return undefined;
        return { reply: lane.decode(pick(messages, indexes)), messages: indexes };
      }),
    );
  }

  tick(nowUs: number): Promise<Reply> {
    return join(this.#lanes.map((lane) => ({ reply: lane.tick(nowUs) })));
  }

  async stop(reason: string): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.stop(reason)));
  }

  #laneOf(device: string): number {
    let lane = this.#memo.get(device);
    if (lane === undefined) {
      lane = laneOf(device, this.#lanes.length);
      if (this.#memo.size >= MEMO_ENTRIES) this.#memo.clear();
      this.#memo.set(device, lane);
    }
    return lane;
  }
}

/** All answers as one, rows in the order of the lanes. One lane's failure is the call's. */
async function join(asked: readonly Asked[]): Promise<Reply> {
  const replies = await Promise.all(asked.map((one) => one?.reply));
  const failures = replies.filter((reply): reply is InstanceFailure => reply?.ok === false);
  const failure = failures.find(({ blame }) => blame) ?? failures[0];
  if (failure !== undefined) return failure;
  const results = replies.map((reply) => (reply?.ok === true ? reply : undefined));
  const frames = results.flatMap((result) =>
    result === undefined || result.frame.rows === 0 ? [] : [result.frame],
  );
  try {
    return {
      ok: true,
      frame: frames.length === 0 ? Frame.empty() : concat(frames),
      state: results.flatMap((result) => result?.state ?? []),
      effects: results.flatMap((result) => result?.effects ?? []),
      rejected: results.flatMap((result, at) =>
        (result?.rejected ?? []).map(({ index, reason }) => ({
          index: asked[at]?.messages?.[index] ?? index,
          reason,
        })),
      ),
    };
  } catch (thrown) {
    return {
      ok: false,
      disposition: "retry",
      reason: `its rows don't fit: ${messageOf(thrown)}`,
      blame: true,
    };
  }
}

const nothing = (): Promise<Reply> =>
  Promise.resolve({ ok: true, frame: Frame.empty(), state: [], effects: [], rejected: [] });
