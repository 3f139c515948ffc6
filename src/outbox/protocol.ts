/** What the main thread and the outbox's worker say to each other: calls, each with one reply, and notices. */
import type { DeviceNews, RememberedDevice } from "../core/device.ts";
import { type ErrorCode, WeirError } from "../core/errors.ts";
import type {
  Effect,
  Gap,
  KeptRows,
  LeasedBatch,
  LeaseLimits,
  OutboxCount,
  StateChange,
  StateEntry,
  Stream,
} from "../core/ports.ts";
import type { Traces } from "../core/trace.ts";
import type { PublishEffect } from "./effect-queue.ts";
import type { Damage, Trouble } from "./plan.ts";
import type { Purge, StoreInfo } from "./store.ts";

/** State changes as columns: cloning an object and a buffer for each would cost more than storing them. */
export interface PackedState {
  readonly plugins: readonly string[];
  readonly scopes: readonly string[];
  readonly keys: readonly string[];
  /** where each value ends in `bytes`; it starts where the one before ended. -1: the entry is deleted */
  readonly ends: Int32Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Arguments and result of every call. */
export interface Operations {
  readonly append: {
    readonly args: {
      readonly stream: Stream;
      /** the frame: a raw block */
      readonly frame: ArrayBuffer;
      readonly state: PackedState | undefined;
      readonly effects: readonly Effect[];
      readonly traces: Traces | undefined;
      readonly ticket: number | undefined;
    };
    readonly result: undefined;
  };
  readonly resume: { readonly args: undefined; readonly result: number };
  readonly state: { readonly args: string; readonly result: readonly StateEntry[] };
  readonly lease: {
    readonly args: { readonly uplink: string; readonly count: number; readonly limits: LeaseLimits };
    readonly result: Lease;
  };
  readonly ack: { readonly args: Ids; readonly result: undefined };
  readonly release: { readonly args: Ids; readonly result: undefined };
  readonly reject: {
    readonly args: { readonly uplink: string; readonly id: number; readonly reason: string };
    readonly result: undefined;
  };
  readonly gaps: { readonly args: string; readonly result: readonly Gap[] };
  readonly gapDone: {
    readonly args: { readonly uplink: string; readonly id: number };
    readonly result: undefined;
  };
  readonly effects: {
    readonly args: undefined;
    readonly result: readonly { readonly id: number; readonly effect: PublishEffect }[];
  };
  readonly effectsDone: { readonly args: readonly number[]; readonly result: undefined };
  readonly setting: { readonly args: string; readonly result: string | undefined };
  readonly setSetting: {
    readonly args: { readonly key: string; readonly value: string | undefined };
    readonly result: undefined;
  };
  readonly kept: { readonly args: undefined; readonly result: readonly KeptRows[] };
  /** some of it; whether there is more */
  readonly dropState: { readonly args: string; readonly result: boolean };
  readonly purge: {
    readonly args: Purge;
    readonly result: { readonly dropped: number; readonly more: boolean };
  };
  readonly counts: { readonly args: undefined; readonly result: readonly OutboxCount[] };
  readonly info: { readonly args: undefined; readonly result: StoreInfo };
  /** a raw block: what a broker had kept */
  readonly refresh: { readonly args: ArrayBuffer; readonly result: undefined };
  readonly learn: { readonly args: readonly DeviceNews[]; readonly result: undefined };
  readonly remembered: { readonly args: undefined; readonly result: readonly RememberedDevice[] };
  /** trouble that is over: the alarm */
  readonly tell: { readonly args: Trouble; readonly result: undefined };
  readonly stop: { readonly args: undefined; readonly result: undefined };
}

/** What a lease gives. */
export interface Lease {
  readonly uplink: string;
  readonly batches: readonly LeasedBatch[];
  /** there is no more, and `ready` will be said when there is */
  readonly dry: boolean;
}

/** Some batches of an uplink. */
export interface Ids {
  readonly uplink: string;
  readonly ids: readonly number[];
}

/** The name of a call. */
export type Op = keyof Operations;
/** A call, by its name. */
export type Request<K extends Op = Op> = {
  [P in K]: { readonly id: number; readonly op: P; readonly args: Operations[P]["args"] };
}[K];
/** Its reply, by the same name. */
export type Reply<K extends Op = Op> = {
  [P in K]:
    | { readonly id: number; readonly op: P; readonly ok: true; readonly value: Operations[P]["result"] }
    | { readonly id: number; readonly op: P; readonly ok: false; readonly error: WireError };
}[K];

/** An error on its way between threads: structured cloning keeps no class. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
}

/**
 * What the worker sends. `started` or `failed` comes first; `ready`: a lease may give these uplinks something new, or there is a gap;
 * `wal`: why it can't be emptied.
 */
export type Notice =
  | { readonly type: "started"; readonly epoch: string }
  | { readonly type: "failed"; readonly error: WireError; readonly damage?: Damage | undefined }
  | { readonly type: "replies"; readonly replies: readonly Reply[] }
  | { readonly type: "full"; readonly full: boolean }
  | { readonly type: "wal"; readonly held: string | undefined }
  | { readonly type: "trouble"; readonly trouble: Trouble | undefined }
  | { readonly type: "ready"; readonly uplinks: readonly string[] };

export const toWire = (error: WeirError): WireError => ({ code: error.code, message: error.message });
export const fromWire = (error: WireError): WeirError => new WeirError(error.code, error.message);

/** State changes packed, or undefined when there are none. */
export function packState(changes: readonly StateChange[]): PackedState | undefined {
  if (changes.length === 0) return undefined;
  const bytes = new Uint8Array(changes.reduce((sum, { value }) => sum + (value?.byteLength ?? 0), 0));
  const ends = new Int32Array(changes.length);
  let at = 0;
  changes.forEach(({ value }, i) => {
    if (value === undefined) {
      ends[i] = -1;
      return;
    }
    bytes.set(value, at);
    at += value.byteLength;
    ends[i] = at;
  });
  return {
    plugins: changes.map(({ plugin }) => plugin),
    scopes: changes.map(({ scope }) => scope),
    keys: changes.map(({ key }) => key),
    ends,
    bytes,
  };
}

/** The changes of {@link packState}, in order; values are views. */
export function* unpackState(packed: PackedState | undefined): Generator<StateChange, void, undefined> {
  if (packed === undefined) return;
  const { plugins, scopes, keys, ends, bytes } = packed;
  let start = 0;
  for (let i = 0; i < ends.length; i++) {
    const end = ends[i] ?? -1;
    const value = end < 0 ? undefined : bytes.subarray(start, end);
    if (end >= 0) start = end;
    yield { plugin: plugins[i] ?? "", scope: scopes[i] ?? "", key: keys[i] ?? "", value };
  }
}
