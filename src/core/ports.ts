/**
 * The ports of the pipeline: what `src/pipeline/` needs from the world, and all it knows of it. Every adapter
 * (sources, plugins, outbox, uplink) implements one of these and imports nothing of another.
 */
import type { Frame } from "./frame.ts";
import type { Messages } from "./messages.ts";
import type { Traces } from "./trace.ts";

/** Streams, in order of priority. `alarm` is raised by plugins, `data` comes from devices, `host` from this gateway. */
export const STREAMS = ["alarm", "data", "host"] as const;
/** One of {@link STREAMS}. */
export type Stream = (typeof STREAMS)[number];

// ---------------------------------------------------------------------------------------------------------- sources

/** What a mapping rule made of a topic. */
export interface Route {
  /** the device's id, already percent-encoded where the topic had `/ + #` */
  readonly device: string;
  /** the rest of the topic that names the measurement, or "" */
  readonly channel: string;
  /** the decoder plugin that the rule names, or undefined for the built-in decoder */
  readonly plugin: string | undefined;
  /** the rule, as an index into the configured list */
  readonly rule: number;
}

/** What became of a message: only `committed` and `rejected` may be acknowledged to the device. */
export type Outcome = "committed" | "rejected" | "dropped";

/** What is to be told what became of a message, or of several. */
export interface Owed {
  /** microseconds since the Unix epoch: when it arrived */
  readonly timeUs: number;
  /** that it stands for; absent: one */
  readonly messages?: number;
  /** Called once. For QoS 1 and 2 the acknowledgement waits for it. */
  readonly settle: ((outcome: Outcome) => void) | undefined;
}

/** A message from a device, with the route that its topic has. Its members may be getters: not to be spread. */
export interface DeviceMessage extends Owed {
  readonly topic: string;
  readonly route: Route;
  /** Stays unchanged until the message is settled; where nobody waits for that, until it has been taken in (a plugin's: its own). */
  readonly payload: Uint8Array;
  /** Where the payload lies, for who reads it there and saves making a view of it: in `bytes`, from `from` to `to`. Absent: `payload` is all. */
  readonly bytes?: Uint8Array;
  readonly from?: number;
  readonly to?: number;
  readonly qos: 0 | 1 | 2;
  /** the broker had kept it */
  readonly retained: boolean;
  /** its W3C trace context, where it brought one */
  readonly trace?: string | undefined;
  /** the source's line in the ledger; absent: `devices` */
  readonly source?: string;
  /**
   * Absent: the message may be kept as it is. Else the object stands for the next one once it has been taken in, and who keeps it keeps
   * what this gives, which is also what `refused` messages are known by. Called once, and not beside `join`.
   */
  keep?(): DeviceMessage;
  /**
   * Has it settled together with those before it: answers what is to be settled, which is `before` where it belongs there. Undefined: it
   * is to be kept and settled alone.
   */
  join?(before: Owed | undefined): Owed | undefined;
}

/** Where sources put what they take in. */
export interface Intake {
  /** A device's message. QoS 0 is dropped and counted when the pipeline is behind. */
  message(message: DeviceMessage): void;
  /**
   * This gateway's own telemetry, for stream `host`.
   * @returns false when it was dropped (and counted) because the pipeline is behind
   */
  frame(source: string, frame: Frame): boolean;
}

/** A source of telemetry. Its constructor does no I/O. */
export interface Source {
  readonly name: string;
  /** Resolves once the source runs. Throws a WeirError when it can't; the agent then runs without it and says so. */
  start(intake: Intake, signal: AbortSignal): Promise<void>;
  /** Stops taking in, gives back everything it holds. Never throws. */
  stop(): Promise<void>;
}

/** The built-in decoder of device messages. */
export interface MessageDecoder {
  /**
   * Adds the message's samples to `into`.
   * @returns the reason when the message is not valid: then no row was added
   */
  decode(message: DeviceMessage, into: import("./frame-builder.ts").FrameBuilder): string | undefined;
}

// ---------------------------------------------------------------------------------------------------------- plugins

/** A change to a plugin's kept bytes; `value` undefined deletes. `scope` is a device's id, or "" for the plugin itself. */
export interface StateChange {
  readonly plugin: string;
  readonly scope: string;
  readonly key: string;
  readonly value: Uint8Array | undefined;
}

/** One kept entry of a plugin's state. */
export interface StateEntry {
  readonly scope: string;
  readonly key: string;
  readonly value: Uint8Array;
}

/** What there is of one plugin in the database. */
export interface KeptRows {
  readonly plugin: string;
  /** of its state; none where something was decided alone */
  readonly entries: number;
  readonly bytes: number;
}

/** What a plugin asked to have done once its output is committed. */
export type Effect =
  | {
      readonly type: "publish";
      readonly plugin: string;
      readonly topic: string;
      readonly payload: Uint8Array;
      readonly qos: 0 | 1;
      readonly retain: boolean;
    }
  | {
      readonly type: "alarm";
      readonly plugin: string;
      readonly device: string;
      readonly code: string;
      readonly active: boolean;
      readonly severity: "info" | "warning" | "critical";
      readonly message: string;
      /** the time (microseconds since the Unix epoch) while the clock is not to be relied on */
      readonly knownUs?: number;
    };

/** The input of the plugin chain. It stays unchanged, and is kept by the caller until its output is committed. */
export interface ChainInput {
  /** the source's name (`devices`, `kernel`, `system`), which plugins bind to */
  readonly source: string;
  readonly frame: Frame;
  /** raw messages by the decoder plugin that their rule names */
  readonly messages: ReadonlyMap<string, Messages>;
  /** plugins that this input has failed twice, or that answered `err` to it: the rows bound to them are rejected */
  readonly without: ReadonlySet<string>;
}

/** What the chain made of an input. */
export interface ChainOutput {
  /** may be the input's own frame when no plugin was bound to any of its rows */
  readonly frame: Frame;
  readonly state: readonly StateChange[];
  readonly effects: readonly Effect[];
  /** messages that a decoder plugin refused: index into that plugin's messages */
  readonly rejected: readonly { readonly plugin: string; readonly index: number; readonly reason: string }[];
  /** samples by plugin, to be counted once the output is committed */
  readonly counts: readonly PluginCounts[];
}

/** One plugin's part in an output, in samples (for a decoder: messages in, none out of the identity). */
export interface PluginCounts {
  readonly plugin: string;
  /** bound rows that were given */
  readonly in: number;
  /** of them, those in a call that succeeded */
  readonly out: number;
  /** of them, those set aside: the plugin failed on them twice, or answered `err` */
  readonly rejected: number;
  /** of them, those dropped because the plugin is quarantined and its manifest says `drop` */
  readonly dropped: number;
  /** rows that the plugin gave back */
  readonly emitted: number;
  /** of the rows given back, those that were refused (a device that the plugin is not bound to) */
  readonly refused: number;
}

/** Why a chain could not process an input: the plugin that failed, and whether a second try makes sense. */
export interface ChainFailure {
  readonly plugin: string;
  /** `reject`: the plugin answered `err`, which is final; `retry`: it trapped, timed out or died */
  readonly disposition: "retry" | "reject";
  readonly reason: string;
}

/** Outcome of {@link PluginChain.process}. Of a failure: every plugin that failed by itself, in the chain's order. */
export type ChainResult =
  | { readonly ok: true; readonly output: ChainOutput }
  | { readonly ok: false; readonly failures: readonly [ChainFailure, ...ChainFailure[]] };

/** The chain of plugins of one lane. */
export interface PluginChain {
  /**
   * Runs an input through every plugin bound to it. Calls may overlap: inputs pass each plugin strictly in the order
   * of the calls. After a failure every result of a later call is a failure too, until {@link PluginChain.restart}.
   */
  process(input: ChainInput): Promise<ChainResult>;
  /** The output of the oldest call that was not yet is committed. */
  committed(): void;
  /** Throws away every instance that has failed or saw uncommitted input, and starts it again from committed state; the others go on. */
  restart(): Promise<void>;
  /** whether any plugin has a timer */
  readonly timed: boolean;
  /** Runs due timers between chunks: the rows they made enter the chain after their plugin. Undefined when none is due. */
  tick(nowUs: number): Promise<ChainResult> | undefined;
}

// ----------------------------------------------------------------------------------------------------------- outbox

/** What one transaction stores, all or nothing. */
export interface Chunk {
  readonly stream: Stream;
  readonly frame: Frame;
  readonly state: readonly StateChange[];
  readonly effects: readonly Effect[];
  /** of the messages that it was made of */
  readonly traces?: Traces | undefined;
}

/** The key of a batch: `(gateway, epoch, stream, seq)`; `span` sequence numbers from `seq` on belong to it. */
export interface BatchKey {
  readonly epoch: string;
  readonly stream: Stream;
  readonly seq: number;
  readonly span: number;
}

/** A message for an uplink to publish. */
export interface Outgoing {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1 | 2;
  readonly retain: boolean;
  /** MQTT 5 content type and user properties; left out towards a 3.1.1 broker */
  readonly contentType: string | undefined;
  readonly userProperties: Readonly<Record<string, string>> | undefined;
}

/** A row that is over the size of a message by itself. */
export interface TooLarge {
  readonly seq: number;
  /** of the message that would have held it alone */
  readonly bytes: number;
  /** this row only */
  readonly frame: Frame;
}

/** A batch in its uplink's encoding: `samples + filtered + tooLarge.length` are its rows. */
export interface EncodedBatch {
  /** rows inside the messages */
  readonly samples: number;
  /** rows that the uplink's filter leaves out */
  readonly filtered: number;
  readonly tooLarge: readonly TooLarge[];
  /** the batch itself, in one part or several, then the messages derived from it alone */
  readonly messages: readonly Outgoing[];
}

/** A sealed batch, encoded, on lease to an uplink until it is acknowledged, rejected or released. */
export interface LeasedBatch {
  /** the outbox's own number for it */
  readonly id: number;
  readonly key: BatchKey;
  /** samples inside, after the uplink's filter: at most `span` */
  readonly samples: number;
  /** the batch itself, then what is derived from it (the retained `last` of each device) */
  readonly messages: readonly Outgoing[];
}

/** Sequence numbers (inclusive) that will not come: announced on the gap topic. */
export interface Gap {
  readonly id: number;
  readonly epoch: string;
  readonly stream: Stream;
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/** One stream's samples at one uplink: `committed = acked + dropped + rejected + lost + held`. */
export interface OutboxCount {
  readonly uplink: string;
  readonly stream: Stream;
  readonly committed: number;
  readonly acked: number;
  readonly dropped: number;
  readonly rejected: number;
  readonly lost: number;
  readonly held: number;
}

/** What a lease is to keep to. */
export interface LeaseLimits {
  /** bytes of a message's payload: a batch above it comes in parts, a row above it is set aside */
  readonly payloadBytes?: number;
  /** only this stream */
  readonly stream?: Stream;
  /** the first lease of a connection: its broker may have none of the retained messages of before */
  readonly anew?: boolean;
}

/** How a chunk is appended. */
export interface AppendOptions {
  /** whether the frame's buffer may be transferred: it may, without this */
  readonly transfer?: boolean;
  /** above 0, rising from append to append in one run of the agent; a chunk that is appended again keeps it */
  readonly ticket?: number;
}

/** The durable queue between the chain and the uplinks. All work happens in a worker thread. */
export interface Outbox {
  /** This run's epoch: eight hex digits. */
  readonly epoch: string;
  /**
   * Stores a chunk. Resolves when its transaction is committed; several waiting chunks share one. Chunks commit in the
   * order of the calls. The frame's buffer may be transferred: pass `transfer: false` to keep it.
   * @throws WeirError `outbox.commit` or `outbox.full` (retry): this chunk, and any appended after it before the caller calls
   * {@link Outbox.resume}, is not known to be stored
   */
  append(chunk: Chunk, options?: AppendOptions): Promise<void>;
  /**
   * Accepts chunks again after a failed append.
   * @returns the greatest ticket that is stored: a transaction that failed may turn out to be on the disk, as when the disk failed at
   * its end, or the worker before it could answer. A chunk up to that ticket is not to be appended again.
   */
  resume(): Promise<number>;
  /** The committed state of a plugin. */
  state(plugin: string): Promise<readonly StateEntry[]>;
  /** Seals what is due, and leases up to `count` batches in order of priority. Empty when there is nothing to send. */
  lease(uplink: string, count: number, limits?: LeaseLimits): Promise<readonly LeasedBatch[]>;
  /** The consumer has them: forget. Idempotent. */
  ack(uplink: string, ids: readonly number[]): Promise<void>;
  /** Gives leased batches back, to be leased again in order, as after a lost connection. */
  release(uplink: string, ids: readonly number[]): Promise<void>;
  /** Sets one aside for good, with the reason. */
  reject(uplink: string, id: number, reason: string): Promise<void>;
  /** Gaps still to be announced to an uplink. */
  gaps(uplink: string): Promise<readonly Gap[]>;
  /** The gap has been announced. */
  gapDone(uplink: string, id: number): Promise<void>;
  /** Publish effects that are committed and not yet done, oldest first. */
  effects(): Promise<readonly { readonly id: number; readonly effect: Effect }[]>;
  /** Those effects are done. */
  effectsDone(ids: readonly number[]): Promise<void>;
  counts(): Promise<readonly OutboxCount[]>;
  /** It is full and an uplink says `pause`: appends fail with `outbox.full`, so nothing more is to be read. */
  readonly full: boolean;
  /** Calls `listener` when {@link Outbox.full} changes. Returns how to stop it. */
  onFull(listener: (full: boolean) => void): () => void;
  /** Whether the last lease gave an uplink all that there was, and nothing has come since: then {@link Outbox.onReady} tells. */
  isDry(uplink: string): boolean;
  /**
   * Calls `listener` when a lease may give something new for these uplinks, or for any (undefined), or a gap waits to be announced.
   * Returns how to stop it.
   */
  onReady(listener: (uplinks?: readonly string[]) => void): () => void;
  /** Commits what waits, then closes. */
  stop(): Promise<void>;
}

// ---------------------------------------------------------------------------------------------------------- uplinks

/** What a consumer says it has made durable: numbers up to `upto`, and the (inclusive) ranges in `also`. */
export interface DurableNotice {
  readonly epoch: string;
  readonly stream: Stream;
  readonly upto: number;
  readonly also: readonly (readonly [from: number, to: number])[];
}

/** Where batches go. An adapter connects, publishes and reports; the pipeline owns window, order and retries. */
export interface Uplink {
  readonly name: string;
  /** Batches that may be unacknowledged at a time, from configuration and what the broker allows. */
  readonly window: number;
  readonly connected: boolean;
  /** Largest payload that the broker takes on this connection, in bytes; undefined: any. */
  readonly mostPayloadBytes: number | undefined;
  /** why it is not connected, or why the last connection ended */
  readonly lastError: string | undefined;
  /** Calls `listener` whenever `connected` changes. Returns how to stop it. */
  onChange(listener: () => void): () => void;
  /** Calls `listener` with each notice of the consumer, where the uplink listens for them. Returns how to stop it. */
  onDurable(listener: (notice: DurableNotice) => void): () => void;
  start(signal: AbortSignal): Promise<void>;
  /**
   * Publishes, resolves at the broker's acknowledgement (QoS 0: when handed over). `again`: it was sent before, and the broker may have it.
   * The payload is then the uplink's, which may have freed it; after a failure it is the caller's.
   * @throws WeirError `uplink.unavailable` or `uplink.refused` (retry), or `uplink.rejected` (reject)
   */
  publish(message: Outgoing, again?: boolean): Promise<void>;
  /** Says goodbye (status topic, DISCONNECT). Never throws. */
  stop(): Promise<void>;
}

/** Publishing on the embedded broker, for the `local` uplink and plugin effects. */
export interface LocalPublisher {
  publish(message: Outgoing): Promise<void>;
}

/** The broker that local applications use: the embedded one, or another in its place. */
export interface LocalBroker extends LocalPublisher {
  /** whether what is published now gets anywhere */
  readonly connected: boolean;
  /** Calls `listener` when `connected` may have changed, or another broker has come. Returns how to stop it. */
  onChange(listener: () => void): () => void;
}
