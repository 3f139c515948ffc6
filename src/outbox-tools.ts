/** What the command line does with an outbox itself, without an agent. */
import { join } from "node:path";
import { crc32c } from "./addon/index.ts";
import { packBlock } from "./core/block.ts";
import type { Stream } from "./core/ports.ts";
import { exportChunks, type Shelf } from "./outbox/export.ts";
import { encodeJson } from "./uplink/encode-json.ts";

/** How {@link exportOutbox} writes: a sample object a line, or blocks one after the other (each says its length). */
export type ExportFormat = "ndjson" | "block";

/**
 * Everything stored in a data folder's outbox, or all that was set aside there, in pieces of output.
 * @returns (at the end) how many chunks were damaged and left out
 */
export function* exportOutbox(
  dataDir: string,
  stream: Stream | undefined,
  format: ExportFormat,
  shelf: Shelf = "waiting",
): Generator<Uint8Array | string, number, undefined> {
  let damaged = 0;
  for (const chunk of exportChunks(join(dataDir, "weir.db"), stream, crc32c, shelf)) {
    const { epoch, seq, frame, rejected } = chunk;
    if (frame === undefined) damaged += 1;
    else if (format === "block") yield packBlock(frame, crc32c);
    else {
      const key = { epoch, stream: chunk.stream, seq, span: frame.rows };
      const batch: { samples: readonly object[] } = JSON.parse(
        Buffer.from(encodeJson("", key, [frame])).toString(),
      );
      yield batch.samples
        .map((sample) => `${JSON.stringify({ ...rejected, stream: chunk.stream, epoch, seq, ...sample })}\n`)
        .join("");
    }
  }
  return damaged;
}
