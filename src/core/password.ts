/**
 * Passwords as scrypt hashes (RFC 7914), `scrypt$<N>$<r>$<p>$<salt>$<hash>` with salt and hash in base64. A password itself is
 * kept nowhere.
 */
import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from "node:crypto";

const COST = { N: 16_384, r: 8, p: 1 };
const HASH_BYTES = 32;
/** What a hash may cost to check: 64 MiB. */
const MOST_MEMORY = 64 * 1024 * 1024;
const FORM = /^scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9+/=]{8,128})\$([A-Za-z0-9+/=]{24,128})$/;

interface Hash {
  readonly options: ScryptOptions;
  readonly salt: Buffer;
  readonly hash: Buffer;
}

/** What a check costs where there is no hash to check against, so that the time does not tell. */
const NOBODY: Hash = {
  options: { ...COST, maxmem: 2 * MOST_MEMORY },
  salt: randomBytes(16),
  hash: Buffer.alloc(HASH_BYTES),
};

function parseHash(text: string): Hash | undefined {
  const [, n = "", r = "", p = "", salt = "", hash = ""] = FORM.exec(text) ?? [];
  const [N, R, P] = [Number(n), Number(r), Number(p)];
  if (N < 2 || (N & (N - 1)) !== 0 || R < 1 || P < 1 || P > 16 || 128 * N * R > MOST_MEMORY) return undefined;
  const options = { N, r: R, p: P, maxmem: 2 * MOST_MEMORY };
  return { options, salt: Buffer.from(salt, "base64"), hash: Buffer.from(hash, "base64") };
}

const derive = (password: Uint8Array, salt: Buffer, bytes: number, options: ScryptOptions): Promise<Buffer> =>
  new Promise((resolve, reject) =>
    scrypt(password, salt, bytes, options, (error, key) => (error ? reject(error) : resolve(key))),
  );

/** Whether `text` is a hash that {@link hashPassword} could have made, and that costs no more than 64 MiB to check. */
export const isPasswordHash = (text: string): boolean => parseHash(text) !== undefined;

/** The hash of a password, with a new salt. Takes some 50 ms of a thread of the pool. */
export async function hashPassword(password: Uint8Array): Promise<string> {
  const salt = randomBytes(16);
  const hash = await derive(password, salt, HASH_BYTES, COST);
  const { N, r, p } = COST;
  return `scrypt$${N}$${r}$${p}$${salt.toString("base64")}$${hash.toString("base64")}`;
}

/** Whether the hash is the password's. Without a hash false, after the time that one would take. */
export async function checkPassword(password: Uint8Array, hash: string | undefined): Promise<boolean> {
  const known = hash === undefined ? undefined : parseHash(hash);
  const wanted = known ?? NOBODY;
  const found = await derive(password, wanted.salt, wanted.hash.length, wanted.options);
  return timingSafeEqual(found, wanted.hash) && known !== undefined;
}
