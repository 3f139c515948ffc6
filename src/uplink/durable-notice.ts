/**
 * The consumer's word on what it has made durable: `{"epoch":"5f1c9a2e","stream":"data","upto":88120,"also":[[88200,88300]]}`, all
 * sequence numbers up to `upto` and those of each range in `also`, both ends included. Untrusted.
 */
import { type DurableNotice, STREAMS } from "../core/ports.ts";

/** A notice is at most this long. */
const MOST_BYTES = 65_536;

/** Ranges beside `upto`. */
const MOST_RANGES = 1_000;
const EPOCH = /^[0-9a-f]{8}$/;

/** The notice in a payload, or undefined when it is none. */
export function readDurableNotice(payload: Uint8Array): DurableNotice | undefined {
  if (payload.byteLength > MOST_BYTES) return undefined;
  try {
    return checked(JSON.parse(Buffer.from(payload).toString("utf8")));
  } catch {
    return undefined;
  }
}

function checked(value: unknown): DurableNotice | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const found: { epoch?: unknown; stream?: unknown; upto?: unknown; also?: unknown } = value;
  const { epoch, upto, also = [] } = found;
  const stream = STREAMS.find((name) => name === found.stream);
  if (typeof epoch !== "string" || !EPOCH.test(epoch) || stream === undefined || !isSeq(upto))
    return undefined;
  if (!Array.isArray(also) || also.length > MOST_RANGES || !also.every(isRange)) return undefined;
  return { epoch, stream, upto, also };
}

const isSeq = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= -1;

const isRange = (value: unknown): value is [number, number] =>
  Array.isArray(value) && value.length === 2 && value.every(isSeq);
