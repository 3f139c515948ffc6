/** Reads what an outbox holds, beside a running agent or without one: read-only, a slice at a time. */
import { existsSync } from "node:fs";
import Database from "better-sqlite3";
import type { Crc32c } from "../core/block.ts";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Frame } from "../core/frame.ts";
import type { Stream } from "../core/ports.ts";
import { isDamage, loadFrame } from "./blocks.ts";

/** Chunks read at a time: a read that stays open would let the WAL grow without end. */
const SLICE_ROWS = 200;

/** A stored chunk: its samples have the numbers from `seq` on. */
export interface ExportedChunk {
  readonly epoch: string;
  readonly stream: Stream;
  readonly seq: number;
  /** undefined: its bytes are damaged */
  readonly frame: Frame | undefined;
  /** of what was set aside: by which uplink, why, and when in milliseconds since the Unix epoch */
  readonly rejected: { readonly uplink: string; readonly reason: string; readonly at: number } | undefined;
}

/** What waits in the outbox, or what was set aside. */
export type Shelf = "waiting" | "rejected";

interface Row {
  readonly id: number;
  readonly stream: Stream;
  readonly epoch: string;
  readonly seq: number;
  readonly block: Buffer;
  readonly uplink: string | null;
  readonly reason: string | null;
  readonly rejected: number | null;
}

const QUERIES: Readonly<Record<Shelf, string>> = {
  waiting: `SELECT id, stream, epoch, seq, block, NULL AS uplink, NULL AS reason, NULL AS rejected FROM chunk`,
  rejected: `SELECT id, stream, epoch, seq, block, uplink, reason, rejected FROM dead`,
};

/** What is stored of `stream`, or of all, in the order in which it was committed. Deleted rows may be missed meanwhile. */
export function* exportChunks(
  path: string,
  stream: Stream | undefined,
  crc32c: Crc32c,
  shelf: Shelf = "waiting",
): Generator<ExportedChunk, void, undefined> {
  if (!existsSync(path))
    throw new WeirError("cli.usage", `${path}: no such file; name the data folder with --data-dir`);
  let db: Database.Database;
  try {
    db = new Database(path, { readonly: true, timeout: 5000 });
  } catch (thrown) {
    throw new WeirError("data.unusable", `${path}: ${messageOf(thrown)}`, { cause: thrown });
  }
  try {
    const rows = db.prepare<[number, string | null, number], Row>(
      `${QUERIES[shelf]} WHERE id > ? AND stream = coalesce(?, stream) ORDER BY id LIMIT ?`,
    );
    for (let last = 0; ; ) {
      const slice = rows.all(last, stream ?? null, SLICE_ROWS);
      for (const { epoch, stream: of, seq, block, uplink, reason, rejected: at } of slice) {
        let frame: Frame | undefined;
        try {
          frame = loadFrame(block, crc32c);
        } catch (thrown) {
          if (!isDamage(thrown)) throw thrown;
        }
        const rejected =
          uplink === null || reason === null || at === null ? undefined : { uplink, reason, at };
        yield { epoch, stream: of, seq, frame, rejected };
      }
      if (slice.length < SLICE_ROWS) return;
      last = slice.at(-1)?.id ?? last;
    }
  } finally {
    db.close();
  }
}
