/** How much one uplink may send: messages and bytes a second, and bytes a month. */
import { TokenBucket } from "../core/token-bucket.ts";

/** Limits of an uplink; what is left out is not limited. */
export interface FlowLimits {
  readonly messagesPerSecond?: number | undefined;
  readonly bytesPerSecond?: number | undefined;
  /** of payloads and topics, in a calendar month (UTC) */
  readonly bytesPerMonth?: number | undefined;
}

/** Where the month's count is kept over restarts. */
export interface FlowMemory {
  load(): Promise<string | undefined>;
  save(text: string): Promise<void>;
}

/** Least time between two times that the month's count is kept, in milliseconds: a crash forgets no more than this. */
const SAVE_EVERY_MS = 10_000;

const monthOf = (nowMs: number): string => new Date(nowMs).toISOString().slice(0, 7);

/** The limits of one uplink, and what of them is used. */
export class Flow {
  readonly #messages: TokenBucket | undefined;
  readonly #bytes: TokenBucket | undefined;
  readonly #bytesPerMonth: number | undefined;
  readonly #memory: FlowMemory;
  #month = "";
  #used = 0;
  #saved = 0;
  #savedMs = 0;

  constructor(limits: FlowLimits, memory: FlowMemory) {
    const { messagesPerSecond, bytesPerSecond, bytesPerMonth } = limits;
    if (messagesPerSecond !== undefined) this.#messages = new TokenBucket(messagesPerSecond);
    if (bytesPerSecond !== undefined) this.#bytes = new TokenBucket(bytesPerSecond);
    this.#bytesPerMonth = bytesPerMonth;
    this.#memory = memory;
  }

  /** Reads what of the month is used. */
  async start(): Promise<void> {
    if (this.#bytesPerMonth === undefined) return;
    const [month, used] = ((await this.#memory.load()) ?? "").split(" ");
    this.#month = month ?? "";
    this.#used = Number(used) || 0;
    this.#saved = this.#used;
  }

  /** How long until something may be sent: 0 for now. */
  get waitMs(): number {
    return Math.max(this.#messages?.waitMs ?? 0, this.#bytes?.waitMs ?? 0);
  }

  /** Whether messages are counted, so that those of one batch go one after the other as there is room. */
  get paces(): boolean {
    return this.#messages !== undefined;
  }

  /** Batches that may be sent at once: what bytes are limited, one, as nobody knows its size before. */
  get room(): number {
    if (this.#bytes !== undefined) return 1;
    return this.#messages === undefined ? Number.POSITIVE_INFINITY : Math.max(1, this.#messages.room);
  }

  /** The month's bytes are used up: only alarms go. `nowMs`: since the Unix epoch. */
  exhausted(nowMs: number = Date.now()): boolean {
    if (this.#bytesPerMonth === undefined) return false;
    const month = monthOf(nowMs);
    if (month !== this.#month) {
      this.#month = month;
      this.#used = 0;
    }
    return this.#used >= this.#bytesPerMonth;
  }

  /** Counts what is sent. */
  take(messages: number, bytes: number): void {
    this.#messages?.take(messages);
    this.#bytes?.take(bytes);
    this.#used += bytes;
  }

  /** Keeps the month's count, when it is time or `now` says so; at once where it is used up, which a crash is not to forget. */
  async save(now = false): Promise<void> {
    const nowMs = performance.now();
    if (this.#bytesPerMonth === undefined || this.#saved === this.#used) return;
    const usedUp = this.#used >= this.#bytesPerMonth && this.#saved < this.#bytesPerMonth;
    if (!now && !usedUp && nowMs - this.#savedMs < SAVE_EVERY_MS) return;
    this.#savedMs = nowMs;
    this.#saved = this.#used;
    await this.#memory.save(`${this.#month} ${this.#used}`);
  }
}
