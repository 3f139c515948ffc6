/** Weir's own decoder against a second one, in another language and after docs/specs/frame.md. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32cTable as crc32c } from "../../src/addon/crc32c.ts";
import { packBlock, readBlock } from "../../src/core/block.ts";
import { CRC_START, Header } from "../../src/core/block-header.ts";
import { WeirError } from "../../src/core/errors.ts";
import type { Frame } from "../../src/core/frame.ts";
import { damaged, frameOf, type ModelRow, someDamage, someRows } from "./frame-arbitrary.ts";

const READER = fileURLToPath(new URL("../../docs/recipes/read_block.py", import.meta.url));

/** What the Python decoder prints for each block. */
function readByPython(blocks: readonly Uint8Array[]): unknown[] {
  const input = Buffer.concat(
    blocks.flatMap((block) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(block.byteLength);
      return [length, block];
    }),
  );
  const { stdout, stderr } = spawnSync("python3", [READER, "--stream"], {
    input,
    maxBuffer: 2 ** 30,
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  return stdout
    .trimEnd()
    .split("\n")
    .map((line): unknown => JSON.parse(line));
}

/** The same object as the Python decoder's, by Weir's decoder. */
function readByWeir(block: Uint8Array): unknown {
  let frame: Frame;
  try {
    frame = readBlock(block, crc32c);
  } catch (error) {
    if (error instanceof WeirError && error.code === "frame.invalid") return { error: expect.any(String) };
    throw error;
  }
  const { devices, metrics, units, texts, blobs } = frame;
  return {
    devices,
    metrics,
    units,
    texts,
    blobs: blobs.map((blob) => Buffer.from(blob).toString("base64")),
    time: [...frame.time],
    value: [...frame.value],
    device: [...frame.device],
    metric: [...frame.metric],
    kind: [...frame.kind],
    status: [...frame.status],
  };
}

/** Like `damaged`, with a checksum that is right again in most cases. */
function hostile(rows: readonly ModelRow[], damages: readonly Parameters<typeof damaged>[1][]): Uint8Array {
  const block = damages.reduce<Uint8Array<ArrayBuffer>>(damaged, packBlock(frameOf(rows), crc32c));
  if (damages.length < 3 && block.byteLength >= CRC_START) {
    new DataView(block.buffer).setUint32(Header.crc, crc32c(block.subarray(CRC_START)), true);
  }
  return block;
}

describe("the decoder in Python", () => {
  test("reads the same from blocks that Weir packed, and from raw ones", () => {
    const frames = fc.sample(someRows, 400).map(frameOf);
    const blocks = frames.flatMap((frame) => [packBlock(frame, crc32c), new Uint8Array(frame.buffer)]);
    expect(readByPython(blocks)).toEqual(blocks.map(readByWeir));
  });

  test("accepts and refuses the same damaged blocks", () => {
    const blocks = fc
      .sample(fc.tuple(someRows, fc.array(someDamage, { minLength: 1, maxLength: 3 })), 3000)
      .map(([rows, damages]) => hostile(rows, damages));
    const byPython = readByPython(blocks);
    blocks.forEach((block, i) => {
      expect({ block: Buffer.from(block).toString("hex"), read: byPython[i] }).toEqual({
        block: Buffer.from(block).toString("hex"),
        read: readByWeir(block),
      });
    });
    const good = byPython.filter(
      (read) => typeof read === "object" && read !== null && !("error" in read),
    ).length;
    expect(good).toBeGreaterThan(100);
    expect(good).toBeLessThan(2900);
  });
});
