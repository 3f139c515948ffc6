/**
 * The second of the two loops: from the outbox to one uplink.
 *
 *     lease ─► publish (window) ─► PUBACK ─► ack: forget
 *                    │ retry: release what is out, wait with jitter
 *                    │ reject: dead letter
 *
 * One loop for each uplink: a dead one holds no other up.
 */
import { messageOf, WeirError } from "../core/errors.ts";
import type { Histogram } from "../core/histogram.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { Gap, LeasedBatch, Outbox, Outgoing, Uplink } from "../core/ports.ts";

/** What the loop is made of. */
export interface ForwardParts {
  readonly uplink: Uplink;
  readonly outbox: Outbox;
  readonly ledger: Ledger;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  /** the message that announces a gap on this uplink */
  readonly gapMessage: (gap: Gap) => Outgoing;
}

/** Longest wait after a failed publish, in milliseconds. */
const MOST_BACKOFF_MS = 30_000;
/** How often gaps are looked for, in milliseconds. */
const GAPS_EVERY_MS = 1_000;

/** The forward loop of one uplink. */
export class Forward {
  readonly #parts: ForwardParts;
  readonly #count: StageCount;
  readonly #seconds: Histogram;
  readonly #outstanding = new Map<number, Promise<void>>();
  #acked: number[] = [];
  #released: number[] = [];
  /** a publish failed: send nothing until what is out has come back and the wait is over */
  #failed = false;
  /** failed rounds since the last acknowledgement */
  #attempts = 0;
  #gapsAt = 0;
  #stopping = false;
  #flushing = false;
  #signal = deferred();
  #loop: Promise<void> | undefined;

  constructor(parts: ForwardParts) {
    this.#parts = parts;
    this.#count = parts.ledger.stage("forward", parts.uplink.name, "batches", () => this.#outstanding.size);
    this.#count.note("retried", 0);
    this.#seconds = parts.ledger.timing("publish", parts.uplink.name);
  }

  /** Runs until {@link stop}. */
  start(): void {
    const wake = (): void => this.#signal.resolve();
    const offs = [this.#parts.uplink.onChange(wake), this.#parts.outbox.onReady(wake)];
    this.#loop = this.#run().finally(() => {
      for (const off of offs) off();
    });
  }

  /**
   * Sends what the outbox has for at most `drainMs`, then gives back what is still out.
   * The uplink stays connected: stop it afterwards.
   */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true;
    this.#flushing = true;
    const timer = setTimeout(() => {
      this.#flushing = false;
      this.#signal.resolve();
    }, drainMs);
    this.#signal.resolve();
    await this.#loop;
    clearTimeout(timer);
  }

  async #run(): Promise<void> {
    const { uplink, outbox } = this.#parts;
    while (!this.#stopping || this.#flushing) {
      const signal = this.#signal;
      try {
        await this.#settle();
        if (uplink.connected && !this.#failed) {
          await this.#announceGaps();
          const room = uplink.window - this.#outstanding.size;
          const leased = room > 0 ? await outbox.lease(uplink.name, room) : [];
          for (const batch of leased) this.#send(batch);
          if (leased.length > 0) continue;
          if (this.#stopping && this.#outstanding.size === 0) break;
        } else if (this.#stopping && this.#outstanding.size === 0) {
          break;
        }
      } catch (thrown) {
        this.#parts.log("warn", `uplink ${uplink.name}: ${messageOf(thrown)}`);
        this.#failed = true;
      }
      if (this.#failed && this.#outstanding.size === 0) await this.#backOff();
      else await signal.promise;
      this.#signal = deferred();
    }
    try {
      await this.#settle();
      await this.#giveBack();
    } catch (thrown) {
      this.#parts.log("warn", `uplink ${uplink.name}, while stopping: ${messageOf(thrown)}`);
    }
  }

  #send(batch: LeasedBatch): void {
    this.#count.in += 1;
    const sentMs = performance.now();
    const sent = this.#publish(batch).then(
      () => {
        this.#acked.push(batch.id);
        this.#seconds.observe((performance.now() - sentMs) / 1000);
        this.#count.out += 1;
        this.#attempts = 0;
      },
      async (thrown: unknown) => {
        if (thrown instanceof WeirError && thrown.disposition === "reject") {
          this.#count.rejected += 1;
          await this.#reject(batch, thrown.message);
          return;
        }
        this.#released.push(batch.id);
        this.#failed = true;
        // It goes back to the outbox, and comes in again.
        this.#count.in -= 1;
        this.#count.note("retried", 1);
      },
    );
    const settled = sent.finally(() => {
      this.#outstanding.delete(batch.id);
      this.#signal.resolve();
    });
    this.#outstanding.set(batch.id, settled);
    settled.catch((thrown: unknown) => {
      this.#parts.log("warn", `uplink ${this.#parts.uplink.name}: ${messageOf(thrown)}`);
    });
  }

  /** Sets a batch aside; where the outbox can't take that now, it is sent once more and refused again. */
  async #reject({ id }: LeasedBatch, reason: string): Promise<void> {
    try {
      await this.#parts.outbox.reject(this.#parts.uplink.name, id, reason);
    } catch (thrown) {
      this.#released.push(id);
      this.#failed = true;
      throw thrown;
    }
  }

  async #publish(batch: LeasedBatch): Promise<void> {
    await Promise.all(batch.messages.map((message) => this.#parts.uplink.publish(message)));
  }

  async #announceGaps(): Promise<void> {
    const { uplink, outbox, gapMessage } = this.#parts;
    const now = performance.now();
    if (now < this.#gapsAt) return;
    this.#gapsAt = now + GAPS_EVERY_MS;
    for (const gap of await outbox.gaps(uplink.name)) {
      await uplink.publish(gapMessage(gap));
      await outbox.gapDone(uplink.name, gap.id);
    }
  }

  /** Tells the outbox what has become of batches; called once for many. */
  async #settle(): Promise<void> {
    const { uplink, outbox } = this.#parts;
    const acked = this.#acked.splice(0);
    try {
      if (acked.length > 0) await outbox.ack(uplink.name, acked);
    } catch (thrown) {
      // The outbox is away: it is told once it is back.
      this.#acked.unshift(...acked);
      throw thrown;
    }
    // What failed goes back only when nothing is out any more, so that it is leased again in order.
    if (this.#released.length === 0 || this.#outstanding.size > 0) return;
    const released = this.#released.splice(0);
    try {
      await outbox.release(uplink.name, released);
    } catch (thrown) {
      this.#released.unshift(...released);
      throw thrown;
    }
  }

  async #backOff(): Promise<void> {
    this.#attempts += 1;
    const most = Math.min(MOST_BACKOFF_MS, 250 * 2 ** Math.min(this.#attempts, 10));
    await sleepOr(
      most / 2 + Math.random() * (most / 2),
      () => this.#stopping && !this.#flushing,
      this.#signal.promise,
    );
    this.#failed = false;
  }

  /** At the end: whatever is still out is given back, to be sent again with the same key. */
  async #giveBack(): Promise<void> {
    const { uplink, outbox } = this.#parts;
    const out = [...this.#released.splice(0), ...this.#outstanding.keys()];
    if (out.length > 0) await outbox.release(uplink.name, out);
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function deferred(): Deferred {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { promise, resolve };
}

/** Waits `ms`; a wake-up before then ends the wait only when `ended` says so. */
async function sleepOr(ms: number, ended: () => boolean, wake: Promise<void>): Promise<void> {
  const sleep = deferred();
  const timer = setTimeout(sleep.resolve, ms);
  await Promise.race([sleep.promise, wake.then(() => (ended() ? undefined : sleep.promise))]);
  clearTimeout(timer);
}
