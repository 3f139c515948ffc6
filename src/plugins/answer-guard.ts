/** What an instance may answer: its limits and its grants. The worker keeps to all this by itself; one that was taken over might not. */
import { deviceProblem } from "../core/dictionary.ts";
import { mayPublish } from "../core/glob.ts";
import type { StateEntry } from "../core/ports.ts";
import type { PluginLimits } from "./limits.ts";
import { type OpenRequest, ownsScope, type ResultFields, STATE_ENTRY_BYTES } from "./wire.ts";
import { brokenWire } from "./wire-fields.ts";

/** Log lines beyond the limit that a worker may send before it is taken for broken: it drops them itself, by its own clock. */
const LOG_SLACK = 100;
const MINUTE_MS = 60_000;

/** What a guard goes by. */
export interface GuardSpec extends Pick<OpenRequest, "grants" | "lane"> {
  readonly limits: PluginLimits;
}

/** Checks what one instance answers. Everything throws `plugin.failed` where it is not allowed. */
export class AnswerGuard {
  readonly #spec: GuardSpec;
  readonly #stateSizes = new Map<string, number>();
  #stateBytes = 0;
  #minute = 0;
  #lines = 0;

  constructor(spec: GuardSpec) {
    this.#spec = spec;
  }

  /** Bytes of state that it keeps. */
  get stateBytes(): number {
    return this.#stateBytes;
  }

  /** Notes the state that it is given. */
  give(state: readonly StateEntry[]): void {
    for (const { scope, key, value } of state) this.#account(scope, key, value.byteLength);
  }

  /** Checks the answer to a call with so many messages, and notes the state that it changes. */
  check({ state, effects, rejected }: ResultFields, messages: number): void {
    const { limits, grants } = this.#spec;
    if (state.length > 0 && !grants.state) throw brokenWire("state without a grant");
    for (const { scope, key, value } of state) {
      if (!ownsScope(this.#spec, scope)) throw brokenWire("state that is not its lane's");
      this.#account(scope, key, value?.byteLength);
    }
    if (this.#stateBytes > limits.stateBytes) throw brokenWire("more state than its limit");
    if (effects.length > limits.effectsPerBatch) throw brokenWire("more effects than its limit");
    for (const effect of effects) {
      if (effect.type === "publish") {
        if (!mayPublish(grants.publish, effect.topic)) throw brokenWire("a publish without a grant");
      } else {
        if (!grants.alarm) throw brokenWire("an alarm without a grant");
        const wrong = deviceProblem(effect.device) ?? deviceProblem(effect.code);
        if (wrong !== undefined) throw brokenWire(`an alarm whose device or code ${wrong}`);
      }
    }
    for (const { index } of rejected)
      if (index >= messages) throw brokenWire("refused a message that it was not given");
  }

  /** Counts what came unasked, which is bounded: log lines, and what it holds, which are few. */
  countLine(): void {
    const minute = Math.floor(performance.now() / MINUTE_MS);
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#lines = 0;
    }
    this.#lines += 1;
    if (this.#lines > 2 * this.#spec.limits.logPerMin + LOG_SLACK)
      throw brokenWire("more log lines than its limit");
  }

  #account(scope: string, key: string, bytes: number | undefined): void {
    const id = `${scope}\0${key}`;
    this.#stateBytes -= this.#stateSizes.get(id) ?? 0;
    if (bytes === undefined) this.#stateSizes.delete(id);
    else {
      const size = STATE_ENTRY_BYTES + Buffer.byteLength(scope) + Buffer.byteLength(key) + bytes;
      this.#stateSizes.set(id, size);
      this.#stateBytes += size;
    }
  }
}
