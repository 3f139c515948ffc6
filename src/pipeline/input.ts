/** An input of the ingest loop: what runs through the chain as one, and is kept until its output is committed. */
import { Frame } from "../core/frame.ts";
import type { Messages } from "../core/messages.ts";
import type { ChainFailure, ChainResult, DeviceMessage, Owed, Stream } from "../core/ports.ts";
import type { Traces } from "../core/trace.ts";
import type { GivenTimes } from "./known-time.ts";

/** An input, kept until its output is committed or it is set aside. */
export interface Input {
  /** its place among all inputs, from 1 on */
  readonly ticket: number;
  readonly stream: Stream;
  /** the source's name, which plugins bind to */
  readonly source: string;
  readonly frame: Frame;
  /** messages that plugins decode, by plugin */
  readonly messages: ReadonlyMap<string, Messages>;
  /** the same messages, in the order of their columns */
  readonly byPlugin: ReadonlyMap<string, readonly DeviceMessage[]>;
  /** messages, or several at once, that are to be settled; nobody waits for QoS 0 */
  readonly waiting: readonly Owed[];
  /** of all messages, those that turned out not to be valid */
  readonly refused: Set<Owed>;
  /** what it counts for while it waits */
  readonly bytes: number;
  /** plugins that its rows pass by, rejected */
  readonly without: Set<string>;
  /** how often it has failed a plugin */
  readonly failures: Map<string, number>;
  /** the rows came from a timer: there is no input to run again */
  readonly tick: Promise<ChainResult> | undefined;
  /** times that plugins were given for it while the clock was not to be relied on */
  readonly given: GivenTimes | undefined;
  /** trace contexts of its messages */
  readonly traces: Traces | undefined;
}

/** Inputs made so far. */
let tickets = 0;

/** An input of rows alone. */
export function frameInput(source: string, stream: Stream, frame: Frame): Input {
  tickets += 1;
  return {
    ticket: tickets,
    stream,
    source,
    frame,
    messages: new Map(),
    byPlugin: new Map(),
    waiting: [],
    refused: new Set(),
    bytes: frame.byteLength,
    without: new Set(),
    failures: new Map(),
    tick: undefined,
    given: undefined,
    traces: undefined,
  };
}

/** What due timers make: `rows` are on their way already. */
export const timerInput = (rows: Promise<ChainResult>, times: GivenTimes | undefined): Input => ({
  ...frameInput("timer", "data", Frame.empty()),
  bytes: 0,
  tick: rows,
  given: times,
});

/** Whether it has nothing for the chain: then its messages only wait for their turn. */
export const isEmpty = ({ tick, frame, messages }: Input): boolean =>
  tick === undefined && frame.rows === 0 && messages.size === 0;

/** Notes a plugin's failure on an input. `err` is final for it; after a second failure the plugin's rows are rejected, too. */
export function blame(input: Input, { plugin, disposition }: ChainFailure): void {
  const times = (input.failures.get(plugin) ?? 0) + 1;
  input.failures.set(plugin, times);
  if (disposition === "reject" || times > 1) input.without.add(plugin);
}
