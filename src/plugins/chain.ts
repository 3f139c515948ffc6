/**
 * The plugins in their order: decoders over raw messages first, then every transform over the rows that are
 * bound to it, each followed by its timer when that is due.
 *
 * Several inputs are on their way at a time. An input enters a stage only after the one before it has: each stage hands
 * out turns. A plugin that decodes and transforms counts as one place: the next input enters its decoder only when the one
 * before has entered its transform, so that its state changes in the order in which inputs commit.
 */
import { messageOf } from "../core/errors.ts";
import { Frame } from "../core/frame.ts";
import type { Messages } from "../core/messages.ts";
import type {
  ChainFailure,
  ChainInput,
  ChainOutput,
  ChainResult,
  Effect,
  PluginChain,
  PluginCounts,
  StateChange,
} from "../core/ports.ts";
import { join } from "./binding.ts";
import type { InstanceFailure, InstanceResult } from "./instance.ts";
import type { Runner } from "./runner.ts";

/** The place of an input in the row of calls, since the last restart. */
interface Ticket {
  readonly generation: number;
  readonly seq: number;
  /** settles with the result of the input before */
  readonly before: Promise<unknown> | undefined;
}

/** A place where inputs enter one at a time, in order. */
class Gate {
  #next = 0;
  readonly #waiting = new Map<number, () => void>();

  /** Whether it is this input's turn; else wait. */
  isOpen(seq: number): boolean {
    return this.#next === seq;
  }

  wait(seq: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.set(seq, resolve));
  }

  /** The input has entered: the next may. */
  entered(): void {
    this.#next += 1;
    const next = this.#waiting.get(this.#next);
    if (next === undefined) return;
    this.#waiting.delete(this.#next);
    next();
  }

  /** Wakes everyone who waits; `reset` begins at the first input again. */
  release(reset: boolean): void {
    if (reset) this.#next = 0;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }
}

interface Stage {
  readonly kind: "decode" | "transform";
  readonly runner: Runner;
  /** passed when entering this stage, which the plugin's last stage opens for the next */
  readonly gate: Gate;
  /** entering here lets the next input into the gate */
  readonly last: boolean;
}

/** What an input has gathered on its way. */
interface Gathered {
  readonly state: StateChange[];
  readonly effects: Effect[];
  readonly rejected: { plugin: string; index: number; reason: string }[];
  readonly counts: PluginCounts[];
}

const NO_TIMERS: ReadonlySet<Runner> = new Set();
const NO_MESSAGES: ReadonlyMap<string, Messages> = new Map();
const NONE: ReadonlySet<string> = new Set();
/** Rows of timers belong to device streams. */
const TIMER_SOURCE = "devices";

/** Stops an input on its way. */
class Stopped {
  readonly failure: ChainFailure;
  constructor(failure: ChainFailure) {
    this.failure = failure;
  }
}

/** The chain. The runners are started by their owner. */
export class Chain implements PluginChain {
  #stages: readonly Stage[] = [];
  #decoders: ReadonlySet<string> = new Set();
  #timers: readonly Runner[] = [];
  #gates: readonly Gate[] = [];
  #runners: readonly Runner[] = [];
  #generation = 0;
  #seq = 0;
  #tail: Promise<unknown> | undefined;
  /** the first failure since the last restart, and whose it was */
  #failed: { readonly seq: number; readonly failure: ChainFailure } | undefined;

  /** `runners` in any order; the chain's is (order, name). */
  constructor(runners: readonly Runner[]) {
    this.arrange(runners);
  }

  /** Takes other runners. Only between chunks: nothing may be on its way. */
  arrange(runners: readonly Runner[]): void {
    this.#generation += 1;
    this.#seq = 0;
    this.#tail = undefined;
    this.#failed = undefined;
    const sorted = runners.toSorted((a, b) => a.spec.order - b.spec.order || (a.name < b.name ? -1 : 1));
    const decoding = sorted.filter((runner) => runner.spec.exports.decoder !== undefined);
    const { transforming, timed } = {
      transforming: sorted.filter(({ spec }) => (spec.exports.transform ?? spec.exports.timer) !== undefined),
      timed: sorted.filter(({ spec }) => spec.exports.timer !== undefined),
    };
    const gates = new Map(sorted.map((runner) => [runner, new Gate()]));
    const stage = (kind: Stage["kind"], runner: Runner): Stage => ({
      kind,
      runner,
      gate: gates.get(runner) ?? new Gate(),
      last: kind === "transform" || !transforming.includes(runner),
    });
    this.#runners = sorted;
    this.#stages = [
      ...decoding.map((runner) => stage("decode", runner)),
      ...transforming.map((runner) => stage("transform", runner)),
    ];
    this.#gates = [...gates.values()];
    this.#decoders = new Set(decoding.map((runner) => runner.name));
    this.#timers = timed;
  }

  process(input: ChainInput): Promise<ChainResult> {
    return this.#begin(input, NO_TIMERS, 0);
  }

  get timed(): boolean {
    return this.#timers.length > 0;
  }

  tick(nowUs: number): Promise<ChainResult> | undefined {
    const nowMs = performance.now();
    const due = this.#timers.filter((runner) => runner.dueMs <= nowMs && runner.instance !== undefined);
    if (due.length === 0) return undefined;
    for (const runner of due) {
      // Missed ones merge into this one; the grid stays.
      const { scheduleMs } = runner.spec;
      runner.dueMs += scheduleMs * Math.ceil((nowMs - runner.dueMs + 1) / scheduleMs);
    }
    const input = { source: TIMER_SOURCE, frame: Frame.empty(), messages: NO_MESSAGES, without: NONE };
    return this.#begin(input, new Set(due), nowUs);
  }

  async restart(): Promise<void> {
    this.#generation += 1;
    for (const gate of this.#gates) gate.release(true);
    await Promise.all(this.#runners.map((runner) => runner.restart()));
    // One that went back to an older version may export other interfaces.
    this.arrange(this.#runners);
  }

  #begin(input: ChainInput, due: ReadonlySet<Runner>, nowUs: number): Promise<ChainResult> {
    const ticket = { generation: this.#generation, seq: this.#seq++, before: this.#tail };
    const result = this.#run(ticket, input, due, nowUs);
    this.#tail = result;
    return result;
  }

  async #run(
    ticket: Ticket,
    input: ChainInput,
    due: ReadonlySet<Runner>,
    nowUs: number,
  ): Promise<ChainResult> {
    const gathered: Gathered = { state: [], effects: [], rejected: [], counts: [] };
    let frame = input.frame;
    try {
      for (const stage of this.#stages) {
        await this.#turn(ticket, stage);
        const entered =
          stage.kind === "decode"
            ? this.#decode(stage.runner, input, frame, gathered)
            : this.#transform(
                stage.runner,
                input,
                frame,
                gathered,
                due.has(stage.runner) ? nowUs : undefined,
              );
        if (stage.last) stage.gate.entered();
        frame = entered instanceof Frame ? entered : await entered;
        this.#check(ticket);
      }
      // One that had little to do may be done before one ahead of it has failed.
      await ticket.before;
      this.#check(ticket);
    } catch (thrown) {
      if (thrown instanceof Stopped) return { ok: false, failure: this.#poison(ticket, thrown.failure) };
      throw thrown;
    }
    this.#rejectStrays(input, gathered);
    const output: ChainOutput = { frame, ...gathered };
    return { ok: true, output };
  }

  /** Waits until every input before this one has entered the stage. */
  async #turn(ticket: Ticket, { gate }: Stage): Promise<void> {
    this.#check(ticket);
    while (!gate.isOpen(ticket.seq)) {
      await gate.wait(ticket.seq);
      this.#check(ticket);
    }
  }

  /** Stops an input that came after a failure, or from before a restart. */
  #check({ generation, seq }: Ticket): void {
    if (generation !== this.#generation) {
      throw new Stopped({ plugin: "", disposition: "retry", reason: "the chain was restarted" });
    }
    if (this.#failed !== undefined && this.#failed.seq < seq) throw new Stopped(this.#failed.failure);
  }

  /** From here on every later input fails, too. */
  #poison({ generation, seq }: Ticket, failure: ChainFailure): ChainFailure {
    if (generation !== this.#generation) return failure;
    if (this.#failed === undefined || seq < this.#failed.seq) {
      this.#failed = { seq, failure };
      for (const gate of this.#gates) gate.release(false);
    }
    return this.#failed.failure;
  }

  /** Enters a plugin's decoder. */
  #decode(runner: Runner, input: ChainInput, frame: Frame, gathered: Gathered): Frame | Promise<Frame> {
    const messages = input.messages.get(runner.name);
    if (messages === undefined || messages.device.length === 0) return frame;
    const instance = runner.instance;
    const { length } = messages.device;
    if (instance === undefined || input.without.has(runner.name)) {
      rejectAll(
        gathered,
        runner.name,
        length,
        `plugin ${runner.name}: ${runner.lastError ?? `is ${runner.state}`}`,
      );
      gathered.counts.push(countsOf(runner, { in: length, rejected: length }));
      return frame;
    }
    runner.used = true;
    const called = instance.decode(messages);
    return (async () => {
      const result = accept(runner, await called);
      const admitted = this.#gather(runner, result, gathered, length);
      return merge(runner, frame, admitted);
    })();
  }

  /** Enters a plugin's transform, then its timer where it is due (`nowUs`). */
  #transform(
    runner: Runner,
    input: ChainInput,
    frame: Frame,
    gathered: Gathered,
    nowUs: number | undefined,
  ): Frame | Promise<Frame> {
    const { exports, onFailure } = runner.spec;
    const none = { bound: undefined, passing: frame };
    const { bound, passing } =
      exports.transform === undefined ? none : runner.binding.divide(input.source, frame);
    const instance = runner.instance;
    if (bound !== undefined && input.without.has(runner.name)) {
      gathered.counts.push(countsOf(runner, { in: bound.rows, rejected: bound.rows }));
      return passing ?? Frame.empty();
    }
    if (instance === undefined) {
      if (bound === undefined || onFailure === "bypass") return frame;
      gathered.counts.push(countsOf(runner, { in: bound.rows, dropped: bound.rows }));
      return passing ?? Frame.empty();
    }
    if (bound === undefined && nowUs === undefined) return frame;
    runner.used = true;
    const transformed = bound === undefined ? undefined : instance.transform(bound);
    const ticked = nowUs === undefined ? undefined : instance.tick(nowUs);
    return (async () => {
      let out = passing;
      if (transformed !== undefined && bound !== undefined) {
        const result = accept(runner, await transformed);
        out = merge(runner, out, this.#gather(runner, result, gathered, bound.rows));
      }
      if (ticked !== undefined) {
        const result = accept(runner, await ticked);
        out = merge(runner, out, this.#gather(runner, result, gathered, 0));
      }
      return out ?? Frame.empty();
    })();
  }

  /** Takes over what a call gave; returns its rows, without those of devices that aren't the plugin's. */
  #gather(runner: Runner, result: InstanceResult, gathered: Gathered, given: number): Frame {
    const plugin = runner.name;
    for (const change of result.state) gathered.state.push({ plugin, ...change });
    for (const effect of result.effects) {
      if (effect.type === "publish" || runner.binding.device(effect.device))
        gathered.effects.push({ plugin, ...effect });
    }
    for (const { index, reason } of result.rejected) gathered.rejected.push({ plugin, index, reason });
    const { frame, refused } = runner.binding.admit(result.frame);
    const rejected = new Set(result.rejected.map(({ index }) => index)).size;
    gathered.counts.push(
      countsOf(runner, { in: given, out: given - rejected, rejected, emitted: result.frame.rows, refused }),
    );
    return frame;
  }

  /** Messages whose rule names a decoder that isn't there. */
  #rejectStrays(input: ChainInput, gathered: Gathered): void {
    for (const [plugin, messages] of input.messages) {
      if (this.#decoders.has(plugin)) continue;
      rejectAll(gathered, plugin, messages.device.length, `no decoder plugin ${plugin} is installed`);
    }
  }
}

function rejectAll(gathered: Gathered, plugin: string, messages: number, reason: string): void {
  for (let index = 0; index < messages; index++) gathered.rejected.push({ plugin, index, reason });
}

function countsOf(runner: Runner, counts: Partial<PluginCounts>): PluginCounts {
  return { in: 0, out: 0, rejected: 0, dropped: 0, emitted: 0, refused: 0, ...counts, plugin: runner.name };
}

/** The result of a call; a failure is noted and stops the input. */
function accept(runner: Runner, reply: InstanceResult | InstanceFailure): InstanceResult {
  if (reply.ok) {
    runner.succeed();
    return reply;
  }
  runner.fail(reply);
  throw new Stopped({ plugin: runner.name, disposition: reply.disposition, reason: reply.reason });
}

/** Rows put together can be over a frame's limits: then the plugin gave too much. */
function merge(runner: Runner, passing: Frame | undefined, rows: Frame): Frame {
  try {
    return join(passing, rows);
  } catch (thrown) {
    const reason = `its rows don't fit: ${messageOf(thrown)}`;
    runner.fail({ ok: false, disposition: "retry", reason, blame: true });
    throw new Stopped({ plugin: runner.name, disposition: "retry", reason });
  }
}
