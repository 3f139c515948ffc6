/**
 * Who may connect to the embedded broker, and what they may do there: identities by password or certificate, and topic rules.
 */
import { createHash, randomBytes } from "node:crypto";
import { checkPassword, isPasswordHash } from "../core/password.ts";
import type { Connect } from "./mqtt-read.ts";
import { Reason } from "./mqtt-wire.ts";

/** What an identity may do. Filters may hold `{identity}` and `{clientid}`, which stand for one level each. */
export interface AccessRule {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/** One that is configured. */
export interface KnownIdentity {
  readonly publish?: readonly string[] | undefined;
  readonly subscribe?: readonly string[] | undefined;
  readonly passwordHash?: string | undefined;
  /** common name of the client certificate that is this one's; `*`: any certificate that the authority signed */
  readonly certificate?: string | undefined;
}

/** A client that was let in. */
export interface Identity {
  readonly name: string;
  /** it has shown who it is */
  readonly authenticated: boolean;
  mayPublish(topic: string): boolean;
  maySubscribe(filter: string): boolean;
}

/** Passwords that are checked at a time; so many more wait, the rest is told to come again. */
const AT_A_TIME = 2;
const WAITING = 256;
/** Checked logins, and rules of identities with their client ids, that are remembered. */
const REMEMBERED = 1024;

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

/** Filters with names put in. One whose name is more than one level, or a wildcard, is left out: it would widen the rule. */
function filled(filters: readonly string[], names: Readonly<Record<string, string>>): readonly string[] {
  return filters.flatMap((filter) => {
    let text = filter;
    for (const [placeholder, name] of Object.entries(names)) {
      if (!text.includes(placeholder)) continue;
      if (name === "" || /[/+#]/.test(name)) return [];
      text = text.replaceAll(placeholder, name);
    }
    return [text];
  });
}

function identityOf(
  name: string,
  clientId: string,
  authenticated: boolean,
  { publish, subscribe }: AccessRule,
): Identity {
  const names = { "{identity}": name, "{clientid}": clientId };
  const [mayPublish, maySubscribe] = [filled(publish, names), filled(subscribe, names)];
  return {
    name,
    authenticated,
    mayPublish: (topic) =>
      mayPublish.some(
        // Weir's own topics only where a rule names them.
        (rule) => covers(rule, topic) && (rule.startsWith("weir/") || !topic.startsWith("weir/")),
      ),
    maySubscribe: (filter) => maySubscribe.some((rule) => covers(rule, filter)),
  };
}

/**
 * The lines `name:hash` of a file of identities; empty ones and those that begin with # are left out.
 * @returns the hashes by name, or what is wrong, with the line
 */
export function readPasswords(text: string): Map<string, string> | string {
  const found = new Map<string, string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const colon = line.indexOf(":");
    const [name, hash] = [line.slice(0, colon), line.slice(colon + 1).trim()];
    if (colon < 1 || !isPasswordHash(hash)) return `line ${index + 1} is not <name>:<hash of weir passwd>`;
    if (found.has(name)) return `line ${index + 1}: ${JSON.stringify(name)} is there twice`;
    found.set(name, hash);
  }
  return found;
}

/** Lets clients in. */
export class Access {
  readonly #identities = new Map<string, KnownIdentity>();
  readonly #anonymous: boolean;
  readonly #rules: AccessRule;
  /** by name and client id: connections of one client share what is remembered of topics */
  readonly #made = new Map<string, Identity>();
  readonly #known = new Set<string>();
  readonly #secret = randomBytes(32);
  readonly #queue: (() => void)[] = [];
  #running = 0;

  /** `rules`: of identities that have none of their own, and of clients without a name, which may come if `anonymous`. */
  constructor(identities: Readonly<Record<string, KnownIdentity>>, rules: AccessRule, anonymous: boolean) {
    for (const [name, identity] of Object.entries(identities)) this.#identities.set(name, identity);
    this.#rules = rules;
    this.#anonymous = anonymous;
  }

  /** Adds identities that have a password and the common rules; those that are known get it as theirs. */
  add(passwords: ReadonlyMap<string, string>): void {
    for (const [name, passwordHash] of passwords)
      this.#identities.set(name, { ...this.#identities.get(name), passwordHash });
  }

  /**
   * Who the client is; a reason code when it may not come in. A certificate goes before a password.
   * @param commonName of a client certificate that was verified, or undefined
   * @param local whether it comes from this machine
   */
  async admit(
    { username, password }: Connect,
    clientId: string,
    commonName: string | undefined,
    local: boolean,
  ): Promise<Identity | number> {
    if (commonName !== undefined && commonName !== "") {
      for (const [name, { certificate }] of this.#identities)
        if (certificate === commonName) return this.#make(name, clientId, name);
      // A name that is another's is not had by a certificate of anybody's.
      if (!this.#identities.has(commonName))
        for (const [name, { certificate }] of this.#identities)
          if (certificate === "*") return this.#make(commonName, clientId, name);
    }
    const mayBeNobody = this.#anonymous && local;
    // Without identities there is nothing to check a name against: it is as good as none.
    if (mayBeNobody && (username === undefined || this.#identities.size === 0))
      return this.#make("", clientId, undefined);
    if (username === undefined) return Reason.notAuthorized;
    const hash = this.#identities.get(username)?.passwordHash;
    const right = await this.#check(username, password ?? EMPTY, hash);
    if (right === undefined) return Reason.busy;
    return right ? this.#make(username, clientId, username) : Reason.badLogin;
  }

  #make(name: string, clientId: string, known: string | undefined): Identity {
    const own = known === undefined ? undefined : this.#identities.get(known);
    const publish = own?.publish ?? this.#rules.publish;
    const subscribe = own?.subscribe ?? this.#rules.subscribe;
    const depends = [...publish, ...subscribe].some((rule) => rule.includes("{clientid}"));
    const key = depends ? `${known ?? ""}\0${name}\0${clientId}` : `${known ?? ""}\0${name}`;
    let identity = this.#made.get(key);
    if (identity === undefined) {
      if (this.#made.size >= REMEMBERED) this.#made.clear();
      identity = identityOf(name, clientId, known !== undefined, { publish, subscribe });
      this.#made.set(key, identity);
    }
    return identity;
  }

  /** Whether a password is right; undefined when too many are being checked. */
  async #check(username: string, password: Buffer, hash: string | undefined): Promise<boolean | undefined> {
    // Of a login that was right, a keyed digest is remembered: a fleet that reconnects is not checked one by one again.
    const key = createHash("sha256")
      .update(this.#secret)
      .update(`${username.length}:${username}`)
      .update(password)
      .digest("base64");
    if (hash !== undefined && this.#known.has(key)) return true;
    if (this.#running >= AT_A_TIME) {
      if (this.#queue.length >= WAITING) return undefined;
      await new Promise<void>((resolve) => this.#queue.push(resolve));
    }
    this.#running += 1;
    try {
      const right = await checkPassword(password, hash);
      if (right) {
        if (this.#known.size >= REMEMBERED) this.#known.clear();
        this.#known.add(key);
      }
      return right;
    } finally {
      this.#running -= 1;
      this.#queue.shift()?.();
    }
  }
}

const EMPTY = Buffer.alloc(0);
