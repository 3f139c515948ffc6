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
  ChainResult,
  Effect,
  PluginChain,
  PluginCounts,
  StateChange,
} from "../core/ports.ts";
import { join } from "./binding.ts";
import { Gate } from "./gate.ts";
import type { InstanceFailure, InstanceResult } from "./instance.ts";
import { NEVER, type Runner } from "./runner.ts";

/** The place of an input in the row of calls, since the last restart. */
interface Ticket {
  readonly generation: number;
  readonly seq: number;
  /** settles with the result of the input before */
  readonly before: Promise<unknown> | undefined;
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
  /** plugins that failed on it by themselves: it goes on to the others without their rows, so that one pass finds all */
  readonly failures: ChainFailure[];
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
  /** of the calls, how many have their output committed: they are the first ones */
  #committed = 0;
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
    this.#committed = 0;
    this.#tail = undefined;
    this.#failed = undefined;
    const sorted = runners.toSorted((a, b) => a.spec.order - b.spec.order || (a.name < b.name ? -1 : 1));
    const decoding = sorted.filter((runner) => runner.spec.exports.decoder !== undefined);
    const timed = sorted.filter(({ spec }) => spec.exports.timer !== undefined);
    const transforming = sorted.filter(
      ({ spec }) => (spec.exports.transform ?? spec.exports.timer) !== undefined,
    );
    const gates = new Map(sorted.map((runner) => [runner, new Gate()]));
    const stage = (kind: Stage["kind"], runner: Runner): Stage => ({
      kind,
      runner,
      gate: gates.get(runner) ?? new Gate(),
      last: kind === "transform" || !transforming.includes(runner),
    });
    this.#runners = sorted;
    for (const runner of sorted) runner.lastSeen = NEVER;
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

  committed(): void {
    this.#committed += 1;
  }

  async restart(): Promise<void> {
    this.#generation += 1;
    for (const gate of this.#gates) gate.release(true);
    await Promise.all(this.#runners.map((runner) => runner.restart(runner.lastSeen >= this.#committed)));
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
    const gathered: Gathered = { state: [], effects: [], rejected: [], counts: [], failures: [] };
    let frame = input.frame;
    try {
      for (const stage of this.#stages) {
        await this.#turn(ticket, stage);
        const entered =
          stage.kind === "decode"
            ? this.#decode(ticket, stage.runner, input, frame, gathered)
            : this.#transform(
                ticket,
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
      if (!(thrown instanceof Stopped)) throw thrown;
      if (gathered.failures.length === 0) {
        this.#poison(ticket, thrown.failure);
        return { ok: false, failures: [this.#failed?.failure ?? thrown.failure] };
      }
    }
    const [failure, ...others] = gathered.failures;
    if (failure !== undefined) return { ok: false, failures: [failure, ...others] };
    this.#rejectStrays(input, gathered);
    const { state, effects, rejected, counts } = gathered;
    return { ok: true, output: { frame, state, effects, rejected, counts } };
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
  #poison({ generation, seq }: Ticket, failure: ChainFailure): void {
    if (generation !== this.#generation) return;
    if (this.#failed === undefined || seq < this.#failed.seq) {
      this.#failed = { seq, failure };
      for (const gate of this.#gates) gate.release(false);
    }
  }

  /**
   * The result of a call. Undefined when the plugin failed by itself, which is noted.
   * @throws Stopped when it ended for another reason, as with its host
   */
  #accept(
    ticket: Ticket,
    runner: Runner,
    gathered: Gathered,
    reply: InstanceResult | InstanceFailure,
  ): InstanceResult | undefined {
    if (reply.ok) {
      runner.succeed();
      return reply;
    }
    runner.fail(reply);
    const failure = { plugin: runner.name, disposition: reply.disposition, reason: reply.reason };
    if (!reply.blame) throw new Stopped(failure);
    gathered.failures.push(failure);
    this.#poison(ticket, failure);
    return undefined;
  }

  /** A plugin's rows with those that pass it by; only these when it failed, or gave so many that they don't fit in a frame. */
  #merge(
    ticket: Ticket,
    runner: Runner,
    gathered: Gathered,
    passing: Frame | undefined,
    reply: InstanceResult | InstanceFailure,
    given: number,
  ): Frame | undefined {
    const result = this.#accept(ticket, runner, gathered, reply);
    if (result === undefined) return passing;
    try {
      return join(passing, this.#gather(runner, result, gathered, given));
    } catch (thrown) {
      const reason = `its rows don't fit: ${messageOf(thrown)}`;
      const failure: InstanceFailure = { ok: false, disposition: "retry", reason, blame: true };
      this.#accept(ticket, runner, gathered, failure);
      return passing;
    }
  }

  /** Enters a plugin's decoder. */
  #decode(
    ticket: Ticket,
    runner: Runner,
    input: ChainInput,
    frame: Frame,
    gathered: Gathered,
  ): Frame | Promise<Frame> {
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
    runner.lastSeen = ticket.seq;
    const called = instance.decode(messages);
    return (async () =>
      this.#merge(ticket, runner, gathered, frame, await called, length) ?? Frame.empty())();
  }

  /** Enters a plugin's transform, then its timer where it is due (`nowUs`). */
  #transform(
    ticket: Ticket,
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
    if (hasFailed(gathered, runner)) return passing ?? Frame.empty();
    runner.lastSeen = ticket.seq;
    const transformed = bound === undefined ? undefined : instance.transform(bound);
    const ticked = nowUs === undefined ? undefined : instance.tick(nowUs);
    return (async () => {
      let out = passing;
      if (transformed !== undefined && bound !== undefined)
        out = this.#merge(ticket, runner, gathered, out, await transformed, bound.rows);
      if (ticked !== undefined && !hasFailed(gathered, runner))
        out = this.#merge(ticket, runner, gathered, out, await ticked, 0);
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

/** Whether it has failed on this input already, as its decoder. */
const hasFailed = ({ failures }: Gathered, { name }: Runner): boolean =>
  failures.length > 0 && failures.some(({ plugin }) => plugin === name);
