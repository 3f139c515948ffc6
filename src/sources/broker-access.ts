/**
 * Who may connect to the embedded broker, and what they may do there: identities by password or certificate, and topic rules.
 * Passwords are kept as scrypt hashes (RFC 7914), `scrypt$<N>$<r>$<p>$<salt>$<hash>` in base64; there is no default one.
 */
import { createHash, randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from "node:crypto";
import { type Connect, Reason } from "./mqtt-wire.ts";

/** What a user may do. Filters may hold `{user}`, which stands for the user's name. */
export interface AccessRule {
  readonly passwordHash?: string | undefined;
  /** common name of the client certificate that is this user's; `*`: any certificate that the authority signed */
  readonly certificate?: string | undefined;
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/** A client that was let in. */
export interface Identity {
  readonly name: string;
  mayPublish(topic: string): boolean;
  maySubscribe(filter: string): boolean;
}

const COST = { N: 16_384, r: 8, p: 1 };
const HASH_BYTES = 32;
/** What a hash may cost to check: 64 MiB. */
const MOST_MEMORY = 64 * 1024 * 1024;
/** Passwords that are checked at a time; more wait. */
const AT_A_TIME = 2;
/** Checked logins that are remembered. */
const REMEMBERED = 1024;
const FORM = /^scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9+/=]{8,128})\$([A-Za-z0-9+/=]{24,128})$/;

interface Hash {
  readonly options: ScryptOptions;
  readonly salt: Buffer;
  readonly hash: Buffer;
}

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

/** The hash of a password, for `broker.users.<name>.passwordHash`. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(16);
  const hash = await derive(Buffer.from(password), salt, HASH_BYTES, COST);
  const { N, r, p } = COST;
  return `scrypt$${N}$${r}$${p}$${salt.toString("base64")}$${hash.toString("base64")}`;
}

/** Whether every topic that `filter` matches is matched by `rule`, too. A topic is a filter without wildcards. */
export function covers(rule: string, filter: string): boolean {
  const rules = rule.split("/");
  const levels = filter.split("/");
  // Wildcards at the beginning leave out what begins with $ [MQTT-4.7.2-1].
  if (filter.startsWith("$") && /^[+#]/.test(rule)) return false;
  for (let i = 0; i < rules.length; i++) {
    const own = rules[i];
    if (own === "#") return true;
    const level = levels[i];
    if (level === undefined || level === "#") return false;
    if (own !== "+" && own !== level) return false;
  }
  return rules.length === levels.length;
}

function identity(name: string, { publish, subscribe }: AccessRule): Identity {
  // A name that is more than one level would widen the rules.
  const own = (filters: readonly string[]): readonly string[] =>
    filters
      .filter((filter) => !filter.includes("{user}") || !/[/+#]/.test(name))
      .map((filter) => filter.replaceAll("{user}", name));
  const [mayPublish, maySubscribe] = [own(publish), own(subscribe)];
  return {
    name,
    mayPublish: (topic) => mayPublish.some((rule) => covers(rule, topic)),
    maySubscribe: (filter) => maySubscribe.some((rule) => covers(rule, filter)),
  };
}

const ANYBODY: Identity = { name: "", mayPublish: () => true, maySubscribe: () => true };

/** Lets clients in. */
export class Access {
  readonly #users = new Map<string, { readonly rule: AccessRule; readonly identity: Identity }>();
  readonly #anonymous: boolean;
  /** what a login costs when there is no such user, so that the time does not tell */
  readonly #nobody: Hash = {
    options: { ...COST, maxmem: 2 * MOST_MEMORY },
    salt: randomBytes(16),
    hash: Buffer.alloc(HASH_BYTES),
  };
  readonly #known = new Map<string, true>();
  readonly #secret = randomBytes(32);
  readonly #queue: (() => void)[] = [];
  #running = 0;

  constructor(users: Readonly<Record<string, AccessRule>>, anonymous: boolean) {
    for (const [name, rule] of Object.entries(users))
      this.#users.set(name, { rule, identity: identity(name, rule) });
    this.#anonymous = anonymous;
  }

  /**
   * Who the client is; a reason code when it may not come in. A certificate goes before a password.
   * @param commonName of a client certificate that was verified, or undefined
   */
  async admit({ username, password }: Connect, commonName: string | undefined): Promise<Identity | number> {
    if (commonName !== undefined && commonName !== "") {
      for (const { rule, identity: found } of this.#users.values())
        if (rule.certificate === commonName) return found;
      for (const { rule } of this.#users.values())
        if (rule.certificate === "*") return identity(commonName, rule);
    }
    if (username === undefined) return this.#anonymous ? ANYBODY : Reason.notAuthorized;
    // Without users there is nothing to check a name against: it is as good as none.
    if (this.#users.size === 0 && this.#anonymous) return ANYBODY;
    const user = this.#users.get(username);
    const hash = user?.rule.passwordHash;
    const right = await this.#check(username, password ?? EMPTY, hash);
    return right && user !== undefined ? user.identity : Reason.badLogin;
  }

  async #check(username: string, password: Buffer, text: string | undefined): Promise<boolean> {
    // Of a login that was right, a keyed digest is remembered: a fleet that reconnects is not checked one by one again.
    const key = createHash("sha256")
      .update(this.#secret)
      .update(`${username.length}:${username}`)
      .update(password)
      .digest("base64");
    if (text !== undefined && this.#known.has(key)) return true;
    if (this.#running >= AT_A_TIME) await new Promise<void>((resolve) => this.#queue.push(resolve));
    this.#running += 1;
    try {
      const known = text === undefined ? undefined : parseHash(text);
      const { salt, hash, options } = known ?? this.#nobody;
      const right =
        timingSafeEqual(await derive(password, salt, hash.length, options), hash) && known !== undefined;
      if (right) {
        if (this.#known.size >= REMEMBERED) this.#known.clear();
        this.#known.set(key, true);
      }
      return right;
    } catch {
      return false;
    } finally {
      this.#running -= 1;
      this.#queue.shift()?.();
    }
  }
}

const EMPTY = Buffer.alloc(0);
