/**
 * The addon's hashes. Which for what:
 *
 * - `xxh3`, `xxh128`: content that nobody forges, and rendezvous hashing; the seed is 64 bits;
 * - `siphash13`: tables whose keys an attacker picks, under a random key of 128 bits (SipHash-1-3, Aumasson and Bernstein 2012);
 * - `crc32c`: framing; the seed is the checksum of what came before.
 *
 * What must not be forged (a component's identity, a file's integrity) is SHA-256's, which is `node:crypto`'s.
 * A call into the addon costs 25 to 40 ns, the hash of 16 bytes 2: {@link Hash.slices} takes many at once.
 */
import { randomBytes } from "node:crypto";
import type { SliceHash } from "../core/frame.ts";
import { addonState } from "./index.ts";
import type { Native, NativeHash, NativeHashStream } from "./native.ts";

const KINDS = { xxh3: 0, xxh128: 1, siphash13: 2, crc32c: 3 } as const;
/** Names of the hashes. */
export type HashName = keyof typeof KINDS;

/** Bytes that are copied into memory which the addon knows: up to so many that takes less time than handing an array over. */
const STAGE_BYTES = 256;
/** Before them: a word for the digest, and one for how many they are. */
const STAGE_HEAD = 16;

/** One hash under one key. Each thread makes its own. */
export class Hash {
  readonly #native: Native;
  readonly #kind: number;
  readonly #key: BigUint64Array;
  readonly #of: NativeHash["of"];
  readonly #slices: NativeHash["slices"];
  readonly #staged: NativeHash["staged"];
  readonly #stage: Uint8Array;
  readonly #length: Uint32Array;
  readonly #digest: BigUint64Array;
  /** Most bytes that go through the stage: none of `xxh128`, because making one number of two words takes what is gained. */
  readonly #mostStaged: number;

  /** With {@link openHash}. */
  constructor(native: Native, name: HashName, key: bigint) {
    this.#native = native;
    this.#kind = KINDS[name];
    this.#key = BigUint64Array.of(BigInt.asUintN(64, key), BigInt.asUintN(64, key >> 64n));
    // Shared, because that can't be detached; nobody else has it.
    const memory = new SharedArrayBuffer(STAGE_HEAD + STAGE_BYTES);
    this.#digest = new BigUint64Array(memory, 0, 1);
    this.#length = new Uint32Array(memory, 8, 1);
    this.#stage = new Uint8Array(memory, STAGE_HEAD);
    this.#mostStaged = name === "xxh128" ? -1 : STAGE_BYTES;
    const { of, slices, staged } = native.openHash(this.#kind, this.#key, new Uint8Array(memory));
    this.#of = of;
    this.#slices = slices;
    this.#staged = staged;
  }

  /** The digest as an unsigned number: of 128 bits for `xxh128`, of 32 for `crc32c`, of 64 else. */
  of(bytes: Uint8Array): bigint {
    const size = bytes.length;
    // None: perhaps of a buffer that was transferred, which set() throws at.
    if (size === 0 || size > this.#mostStaged || !(bytes instanceof Uint8Array)) return this.#of(bytes);
    this.#stage.set(bytes);
    this.#length[0] = size;
    this.#staged();
    return this.#digest[0] ?? 0n;
  }

  /**
   * Hashes the slices `starts[i]` to `starts[i + 1]` of `bytes`, one less than there are starts.
   * @param starts in ascending order, none past the end
   * @param into takes the digests, a word each; for `xxh128` two, the low one first
   * @throws RangeError when a start is out of order or `into` too short
   */
  slices(bytes: Uint8Array, starts: Uint32Array, into: BigUint64Array): void {
    if (!this.#slices(bytes, starts, into)) {
      throw new RangeError(
        "hash: starts go back or past the end of the bytes, or there is no room for the digests",
      );
    }
  }

  /** Takes parts in order. */
  stream(): HashStream {
    return new HashStream(new this.#native.HashStream(this.#kind, this.#key));
  }
}

/** A hash of parts that come one by one. */
export class HashStream {
  readonly #native: NativeHashStream;

  /** With {@link Hash.stream}. */
  constructor(native: NativeHashStream) {
    this.#native = native;
  }

  update(bytes: Uint8Array): this {
    this.#native.update(bytes);
    return this;
  }

  /** Of everything so far; more may follow. */
  digest(): bigint {
    return this.#native.digest();
  }
}

/**
 * A hash of the addon's, or undefined where there is no addon.
 * @param key the seed, or SipHash's key; 0 when left out
 */
export function openHash(name: HashName, key = 0n): Hash | undefined {
  const addon = addonState();
  return addon.ok ? new Hash(addon.native, name, key) : undefined;
}

/**
 * SipHash-1-3 under a random key, for checking dictionaries that a plugin made: what it returns may be 4 MiB, which takes 4 ms by
 * the hash in JavaScript and 0.6 by this one. Undefined where there is no addon.
 */
export function keyedSliceHash(): SliceHash | undefined {
  const hash = openHash("siphash13", BigInt(`0x${randomBytes(16).toString("hex")}`));
  return hash === undefined ? undefined : (bytes, starts, into) => hash.slices(bytes, starts, into);
}
