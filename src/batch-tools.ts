/** Batches as the command line and the tests read them: with the addon's checksum. */
import { crc32c } from "./addon/index.ts";
import { type Batch, readBatch } from "./consume/batch.ts";

/** The batch in a payload of any encoding, or undefined when it is none. */
export const batchIn = (payload: Uint8Array): Batch | undefined => readBatch(payload, crc32c);
