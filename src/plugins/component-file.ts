/** Files of the plugins folder, read with care: no link is followed, no FIFO waited on, and no more than the limit is read of any. */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { errnoOf, WeirError } from "../core/errors.ts";

/** Largest component: a JavaScript engine with its libraries takes 2 to 13 MB. */
export const COMPONENT_BYTES: number = 32 * 1024 * 1024;
/** Of a file, read at a time. */
const PART_BYTES = 256 * 1024;

/** A `plugin.refused` error. */
export const refusal = (reason: string): WeirError => new WeirError("plugin.refused", reason);

/** The SHA-256 of a component's file, a part of which is in memory at a time: there may be hundreds of them. */
export async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await readParts(path, COMPONENT_BYTES, (part) => void hash.update(part));
  return hash.digest("hex");
}

/**
 * The component in a file, which was seen to have this SHA-256.
 * @throws WeirError `plugin.refused` when it has another one
 */
export async function readComponent(path: string, hash: string): Promise<Uint8Array<ArrayBuffer>> {
  // A part at a time: all of it at once would hold this thread up for as long as a chunk may take.
  const found = createHash("sha256");
  const bytes = await readBounded(path, COMPONENT_BYTES, (part) => void found.update(part));
  if (found.digest("hex") !== hash) throw refusal(`${path} has changed`);
  return bytes;
}

/** A regular file's bytes, no more than `most`, each part shown to `see`. Throws `plugin.refused` for what is no such file. */
export async function readBounded(
  path: string,
  most: number,
  see: (part: Uint8Array) => void = () => {},
): Promise<Uint8Array<ArrayBuffer>> {
  let bytes = new Uint8Array(0);
  let at = 0;
  await readParts(path, most, (part, size) => {
    if (at === 0) bytes = new Uint8Array(size);
    see(part);
    bytes.set(part, at);
    at += part.byteLength;
  });
  return bytes;
}

/**
 * Hands out a regular file's bytes in parts, which are good until the next one, with the size of all. Never follows a link, never waits on
 * a FIFO.
 */
async function readParts(
  path: string,
  most: number,
  take: (part: Uint8Array, size: number) => void,
): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (thrown: unknown) => {
      if (errnoOf(thrown) === "ELOOP") throw refusal(`${path} is a link`);
      throw thrown;
    },
  );
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw refusal(`${path} is not a regular file`);
    if (stat.size > most) throw refusal(`${path} has ${stat.size} bytes, the limit is ${most}`);
    const part = new Uint8Array(Math.min(PART_BYTES, stat.size));
    for (let at = 0; at < stat.size; ) {
      const { bytesRead } = await handle.read(part, 0, Math.min(part.byteLength, stat.size - at), at);
      if (bytesRead === 0) throw refusal(`${path} got shorter while it was read`);
      take(part.subarray(0, bytesRead), stat.size);
      at += bytesRead;
    }
  } finally {
    await handle.close();
  }
}
