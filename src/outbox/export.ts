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
}

/** What is stored of `stream`, or of all, in the order in which it was committed. Deleted rows may be missed meanwhile. */
export function* exportChunks(
  path: string,
  stream: Stream | undefined,
  crc32c: Crc32c,
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
    const rows = db.prepare<
      [number, string | null, number],
      { id: number; stream: Stream; epoch: string; seq: number; block: Buffer }
    >(
      `SELECT id, stream, epoch, seq, block FROM chunk WHERE id > ? AND stream = coalesce(?, stream) ORDER BY id LIMIT ?`,
    );
    for (let last = 0; ; ) {
      const slice = rows.all(last, stream ?? null, SLICE_ROWS);
      for (const { epoch, stream: of, seq, block } of slice) {
        let frame: Frame | undefined;
        try {
          frame = loadFrame(block, crc32c);
        } catch (thrown) {
          if (!isDamage(thrown)) throw thrown;
        }
        yield { epoch, stream: of, seq, frame };
      }
      if (slice.length < SLICE_ROWS) return;
      last = slice.at(-1)?.id ?? last;
    }
  } finally {
    db.close();
  }
}
