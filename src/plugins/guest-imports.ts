/**
 * What a component may call: log, state, effects (wit/weir.wit). Runs inside the plugin's worker, which the agent doesn't
 * trust: what leaves here is checked there again.
 */
import { deviceProblem } from "../core/dictionary.ts";
import { mayPublish } from "../core/glob.ts";
import type { StateEntry } from "../core/ports.ts";
import {
  type EffectFields,
  LOG_LEVELS,
  type LogLevel,
  MOST_EFFECT_BYTES,
  MOST_NAME,
  MOST_TEXT,
  type OpenRequest,
  ownsScope,
  type ResultFields,
  SEVERITIES,
  STATE_ENTRY_BYTES,
} from "./wire.ts";

const MINUTE_MS = 60_000;
/**
 * Refusals of one call for want of room (dropped log lines, state, effects) above which the call fails: two for each row of
 * the largest chunk. Each takes microseconds that all others wait for.
 */
const MOST_REFUSED = 8_192;

/** One line of the plugin's log, as it leaves the worker. */
export type LogSink = (level: LogLevel, text: string) => void;

/** Where a result is a refusal, jco takes what is thrown as the `err`. */
function refuse(why: "not-granted" | "limit" | "invalid"): never {
  throw why;
}

/** The imports of one instance, with what its current call has asked for. */
export class GuestImports {
  readonly #request: OpenRequest;
  readonly #log: LogSink;
  readonly #state = new Map<string, Uint8Array>();
  #stateBytes = 0;
  #changed = new Map<string, { scope: string; key: string }>();
  #effects: EffectFields[] = [];
  #effectBytes = 0;
  #minute = 0;
  #lines = 0;
  #dropped = 0;
  #refused = 0;
  readonly #told = new Set<string>();

  constructor(request: OpenRequest, state: readonly StateEntry[], log: LogSink) {
    this.#request = request;
    this.#log = log;
    for (const { scope, key, value } of state) {
      this.#state.set(`${scope}\0${key}`, value);
      this.#stateBytes += weight(scope, key, value);
    }
  }

  /** The functions by interface, as generated code imports them. `entered` runs first in each. */
  interfaces(entered: () => void): Record<string, Record<string, unknown>> {
    const counted = <A extends unknown[], R>(call: (...given: A) => R) => {
      return (...given: A): R => {
        entered();
        return call(...given);
      };
    };
    return {
      "weir:plugin/types": {},
      "weir:plugin/log": { write: counted((level: unknown, text: unknown) => this.#write(level, text)) },
      "weir:plugin/state": {
        get: counted((scope: unknown, key: unknown) => this.#get(scope, key)),
        set: counted((scope: unknown, key: unknown, value: unknown) => this.#set(scope, key, value)),
        delete: counted((scope: unknown, key: unknown) => this.#delete(scope, key)),
      },
      "weir:plugin/effects": {
        publish: counted((topic: unknown, payload: unknown, qos: unknown, retain: unknown) =>
          this.#publish(topic, payload, qos, retain),
        ),
        alarm: counted(
          (device: unknown, code: unknown, active: unknown, severity: unknown, message: unknown) =>
            this.#alarm(device, code, active, severity, message),
        ),
      },
    };
  }

  /** What the call has asked for; the next call begins with nothing. */
  take(): Pick<ResultFields, "state" | "effects"> {
    this.#refused = 0;
    if (this.#changed.size === 0 && this.#effects.length === 0) return { state: [], effects: [] };
    const state = [...this.#changed].map(([id, { scope, key }]) => ({
      scope,
      key,
      value: this.#state.get(id),
    }));
    const effects = this.#effects;
    this.#changed = new Map();
    this.#effects = [];
    this.#effectBytes = 0;
    return { state, effects };
  }

  #write(level: unknown, text: unknown): void {
    const full = this.#lines >= this.#request.limits.logPerMin;
    // A flood is thousands of lines a call: the clock is asked at every 64th.
    if (full && this.#dropped % 64 !== 0) {
      this.#drop();
      return;
    }
    const minute = Math.floor(performance.now() / MINUTE_MS);
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#lines = 0;
      if (this.#dropped > 0)
        this.#log("warn", `${this.#dropped} log lines over limits.logPerMin were dropped`);
      this.#dropped = 0;
    }
    if (this.#lines >= this.#request.limits.logPerMin) {
      this.#drop();
      return;
    }
    this.#lines += 1;
    const known = LOG_LEVELS.find((one) => one === level) ?? "info";
    this.#log(known, String(text).slice(0, MOST_TEXT));
  }

  #get(scope: unknown, key: unknown): Uint8Array | undefined {
    if (!this.#request.grants.state) this.#deny("state", toAskFor("state"));
    // A copy: what the component gets must not change what is kept.
    return this.#state.get(`${this.#scope(scope)}\0${name(key)}`)?.slice();
  }

  #set(scope: unknown, key: unknown, value: unknown): void {
    if (!this.#request.grants.state) this.#deny("state", toAskFor("state"));
    if (!(value instanceof Uint8Array)) refuse("invalid");
    const [inScope, inKey] = [this.#scope(scope), name(key)];
    const id = `${inScope}\0${inKey}`;
    const before = this.#state.get(id);
    const more = weight(inScope, inKey, value) - (before === undefined ? 0 : weight(inScope, inKey, before));
    if (this.#stateBytes + more > this.#request.limits.stateBytes) this.#full();
    this.#stateBytes += more;
    this.#state.set(id, value.slice());
    this.#changed.set(id, { scope: inScope, key: inKey });
  }

  #delete(scope: unknown, key: unknown): void {
    if (!this.#request.grants.state) this.#deny("state", toAskFor("state"));
    const [inScope, inKey] = [this.#scope(scope), name(key)];
    const id = `${inScope}\0${inKey}`;
    const before = this.#state.get(id);
    if (before === undefined) return;
    this.#stateBytes -= weight(inScope, inKey, before);
    this.#state.delete(id);
    this.#changed.set(id, { scope: inScope, key: inKey });
  }

  /** A scope that is this lane's to read and change. */
  #scope(given: unknown): string {
    const scope = name(given);
    if (!ownsScope(this.#request, scope)) refuse("invalid");
    return scope;
  }

  #publish(topic: unknown, payload: unknown, qos: unknown, retain: unknown): void {
    if (typeof topic !== "string" || !(payload instanceof Uint8Array) || (qos !== 0 && qos !== 1))
      refuse("invalid");
    if (topic === "" || topic.length > MOST_NAME || /[+#\0]/.test(topic)) refuse("invalid");
    if (!mayPublish(this.#request.grants.publish, topic)) {
      this.#deny(
        "publish",
        `grant: { publish: [${JSON.stringify(topic)}] } under plugins.<name> in weir.yaml`,
      );
    }
    this.#effect(
      { type: "publish", topic, payload: payload.slice(), qos, retain: retain === true },
      payload.byteLength,
    );
  }

  #alarm(device: unknown, code: unknown, active: unknown, severity: unknown, message: unknown): void {
    if (!this.#request.grants.alarm) this.#deny("alarm", toAskFor("alarm"));
    const known = SEVERITIES.find((one) => one === severity);
    if (known === undefined || typeof message !== "string") refuse("invalid");
    const text = message.slice(0, MOST_TEXT);
    const subject = { device: name(device), code: name(code) };
    // Both become levels of a topic.
    if ((deviceProblem(subject.device) ?? deviceProblem(subject.code)) !== undefined) refuse("invalid");
    this.#effect(
      { type: "alarm", ...subject, active: active === true, severity: known, message: text },
      2 * text.length,
    );
  }

  #effect(effect: EffectFields, bytes: number): void {
    const { effectsPerBatch } = this.#request.limits;
    if (this.#effects.length >= effectsPerBatch || this.#effectBytes + bytes > MOST_EFFECT_BYTES)
      this.#full();
    this.#effectBytes += bytes;
    this.#effects.push(effect);
  }

  #drop(): void {
    this.#dropped += 1;
    this.#countRefusal();
  }

  /** There is no room for what it asks. */
  #full(): never {
    this.#countRefusal();
    refuse("limit");
  }

  /** What is thrown here ends the call: a component can't catch what isn't a result of the contract. */
  #countRefusal(): void {
    if (++this.#refused > MOST_REFUSED)
      throw new RangeError(`asked over ${MOST_REFUSED} times in one call for more than its limits allow`);
  }

  /** Says once what would grant it. */
  #deny(what: string, how: string): void {
    if (!this.#told.has(what)) {
      this.#told.add(what);
      this.#log("warn", `${what} is not granted; to grant it: ${how}`);
    }
    refuse("not-granted");
  }
}

/** What is granted on request, unless the operator refuses it. */
const toAskFor = (what: string): string =>
  `needs: { ${what}: true } in its plugin.yaml, and no grant: { ${what}: false } under plugins.<name> in weir.yaml`;

/** A scope or key, whose UTF-8 must fit its field. */
function name(given: unknown): string {
  if (typeof given === "string" && given.length <= MOST_NAME && Buffer.byteLength(given) <= MOST_NAME)
    return given;
  refuse("invalid");
}

const weight = (scope: string, key: string, value: Uint8Array): number =>
  STATE_ENTRY_BYTES + Buffer.byteLength(scope) + Buffer.byteLength(key) + value.byteLength;
