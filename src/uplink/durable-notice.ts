/**
 * The consumer's word on what it has made durable: `{"epoch":"5f1c9a2e","stream":"data","upto":88120,"also":[[88200,88300]]}`, all
 * sequence numbers up to `upto` and those of each range in `also`, both ends included. Untrusted.
 */
import { z } from "zod";
import { type DurableNotice, STREAMS } from "../core/ports.ts";

/** A notice is at most this long. */
const MOST_BYTES = 65_536;

const seq = z.number().int().min(-1).max(Number.MAX_SAFE_INTEGER);
const noticeSchema = z.object({
  epoch: z.string().regex(/^[0-9a-f]{8}$/),
  stream: z.enum(STREAMS),
  upto: seq,
  also: z
    .array(z.tuple([seq, seq]))
    .max(1_000)
    .default([]),
});

/** The notice in a payload, or undefined when it is none. */
export function readDurableNotice(payload: Uint8Array): DurableNotice | undefined {
  if (payload.byteLength > MOST_BYTES) return undefined;
  try {
    const found = noticeSchema.safeParse(JSON.parse(Buffer.from(payload).toString("utf8")));
    return found.success ? found.data : undefined;
  } catch {
    return undefined;
  }
}
