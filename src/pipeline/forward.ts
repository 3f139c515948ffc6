/**
 * The second of the two loops: from the outbox to one uplink.
 *
 *     lease ─► publish (window) ─► PUBACK ─► (consumer's word) ─► ack: forget
 *                    │ retry: release what is out, wait with jitter, then try with one batch
 *                    │ reject: dead letter
 *
 * One loop for each uplink: a dead one holds no other up.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, WeirError } from "../core/errors.ts";
import type { Histogram } from "../core/histogram.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { Gap, LeasedBatch, LeaseLimits, Outbox, Outgoing, Uplink } from "../core/ports.ts";
import { Durable } from "./durable.ts";
import { Flow, type FlowLimits, type FlowMemory } from "./flow.ts";

/** What the loop is made of. */
export interface ForwardParts {
  readonly uplink: Uplink;
  readonly outbox: Outbox;
  readonly ledger: Ledger;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  /** the message that announces a gap on this uplink */
  readonly gapMessage: (gap: Gap) => Outgoing;
  readonly limits: FlowLimits;
  readonly memory: FlowMemory;
  /** only the consumer's word counts as delivered: how long to wait for it, and with how many batches at most */
  readonly appAck: { readonly timeoutMs: number; readonly batches: number } | undefined;
}

/** `open`: nothing is sent after failures. `half-open`: one batch is on trial. */
export type Circuit = "closed" | "open" | "half-open";

/** Longest wait after a failed publish, in milliseconds. */
const MOST_BACKOFF_MS = 10_000;
/** How often gaps are looked for, and what waits for the consumer, in milliseconds. */
const GAPS_EVERY_MS = 1_000;
/** Least time between two acknowledgements to the outbox, in milliseconds: each is a transaction. */
const SETTLE_EVERY_MS = 20;
/** Longest wait between two messages before the connection is looked at again, in milliseconds. */
const LONGEST_PAUSE_MS = 250;
/** Batches remembered as sent before: more than can be on lease at a time. */
const MOST_AGAIN = 8_192;
/** A batch that the broker refused so often is set aside: the ones behind it are to go on. */
const MOST_REFUSALS = 5;

/** The forward loop of one uplink. */
export class Forward {
  readonly #parts: ForwardParts;
  readonly #count: StageCount;
  readonly #seconds: Histogram;
  readonly #outstanding = new Map<number, Promise<void>>();
  readonly #flow: Flow;
  /** what the broker has, and the consumer has not confirmed */
  readonly #durable: Durable | undefined;
  /** batches that were sent and came back, by their numbers: the broker may have them */
  readonly #again = new Set<number>();
  /** refusals of batches that were not final, by their numbers */
  readonly #refusals = new Map<number, number>();
  #acked: number[] = [];
  #released: number[] = [];
  /** not confirmed in time: they go back whatever else is out */
  readonly #late: number[] = [];
  /** a publish failed: send nothing until what is out has come back and the wait is over */
  #failed = false;
  #lastError: string | undefined;
  /** failed rounds since the last acknowledgement */
  #attempts = 0;
  #gapsAt = 0;
  /** when the outbox was last told of acknowledgements, on the monotonic clock */
  #settledAt = 0;
  /** nothing was leased for this connection yet */
  #anew = true;
  #stopping = false;
  #flushing = false;
  #signal = deferred();
  #loop: Promise<void> | undefined;

  constructor(parts: ForwardParts) {
    this.#parts = parts;
    this.#count = parts.ledger.stage(
      "forward",
      parts.uplink.name,
      "batches",
      () => this.#outstanding.size + (this.#durable?.size ?? 0),
    );
    this.#flow = new Flow(parts.limits, parts.memory);
    if (parts.appAck !== undefined) this.#durable = new Durable(parts.appAck.timeoutMs);
    this.#count.note("retried", 0);
    this.#seconds = parts.ledger.timing("publish", parts.uplink.name);
  }

  /** How the last rounds went. */
  get circuit(): Circuit {
    return this.#failed ? "open" : this.#attempts > 0 ? "half-open" : "closed";
  }

  /** Why the last round failed; undefined while rounds go well. */
  get trouble(): string | undefined {
    return this.circuit === "closed" ? undefined : this.#lastError;
  }

  /** Batches that the broker has and the consumer has not confirmed. */
  get unconfirmed(): number {
    return this.#durable?.size ?? 0;
  }

  /** The month's bytes are used up. */
  get exhausted(): boolean {
    return this.#flow.exhausted();
  }

  /** Runs until {@link stop}. */
  start(): void {
    const wake = (): void => this.#signal.resolve();
    const changed = (): void => {
      this.#anew = true;
      wake();
    };
    const ready = (uplinks?: readonly string[]): void => {
      if (uplinks?.includes(this.#parts.uplink.name) !== false) wake();
    };
    const offs = [this.#parts.uplink.onChange(changed), this.#parts.outbox.onReady(ready)];
    if (this.#durable !== undefined) {
      offs.push(
        this.#parts.uplink.onDurable((notice) => {
          this.#confirmed(this.#durable?.take(notice) ?? []);
          wake();
        }),
      );
    }
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
    await this.#flow.start().catch(() => {});
    while (!this.#stopping || this.#flushing) {
      const signal = this.#signal;
      let timer: NodeJS.Timeout | undefined;
      let gapsTimer: NodeJS.Timeout | undefined;
      let settleTimer: NodeJS.Timeout | undefined;
      try {
        this.#expire();
        const settleMs = this.#acked.length === 0 ? 0 : this.#settledAt + SETTLE_EVERY_MS - performance.now();
        if (settleMs <= 0 || this.#stopping || this.#failed) await this.#settle();
        else settleTimer = setTimeout(signal.resolve, settleMs);
        await this.#flow.save();
        if (uplink.connected && !this.#failed) {
          const gapsMs = await this.#announceGaps();
          if (gapsMs > 0) gapsTimer = setTimeout(signal.resolve, gapsMs);
          const waitMs = this.#flow.waitMs;
          const room = waitMs > 0 ? 0 : this.#room();
          if (waitMs > 0) timer = setTimeout(signal.resolve, waitMs);
          const isDry = !this.#anew && !this.#stopping && outbox.isDry(uplink.name);
          const leased = room > 0 && !isDry ? await this.#lease(room) : [];
          for (const batch of leased) this.#send(batch);
          if (leased.length > 0) {
            clearTimeout(gapsTimer);
            clearTimeout(settleTimer);
            continue;
          }
          if (this.#stopping && this.#outstanding.size === 0) break;
        } else if (this.#stopping && this.#outstanding.size === 0) {
          break;
        }
      } catch (thrown) {
        this.#parts.log("warn", `uplink ${uplink.name}: ${messageOf(thrown)}`);
        this.#fail(thrown);
      }
      if (this.#failed && this.#outstanding.size === 0) await this.#backOff();
      else await this.#wait(signal.promise);
      clearTimeout(timer);
      clearTimeout(gapsTimer);
      clearTimeout(settleTimer);
      this.#signal = deferred();
    }
    try {
      await this.#settle();
      await this.#flow.save(true);
      await this.#giveBack();
    } catch (thrown) {
      this.#parts.log("warn", `uplink ${uplink.name}, while stopping: ${messageOf(thrown)}`);
    }
  }

  /** Batches that may be sent now. After failed rounds one is tried before the window opens again. */
  #room(): number {
    const { uplink, appAck } = this.#parts;
    const window = Math.min(uplink.window, this.#attempts > 0 ? 1 : Number.POSITIVE_INFINITY);
    const unconfirmed = appAck === undefined ? window : appAck.batches - this.unconfirmed;
    return Math.min(Math.min(window, unconfirmed) - this.#outstanding.size, this.#flow.room);
  }

  async #lease(room: number): Promise<readonly LeasedBatch[]> {
    const { uplink, outbox } = this.#parts;
    const payloadBytes = uplink.mostPayloadBytes;
    const anew = this.#anew;
    const limits: LeaseLimits = {
      ...(payloadBytes === undefined ? {} : { payloadBytes }),
      ...(this.#flow.exhausted() ? { stream: "alarm" } : {}),
      ...(anew ? { anew } : {}),
    };
    this.#anew = false;
    try {
      return await outbox.lease(uplink.name, room, limits);
    } catch (thrown) {
      this.#anew ||= anew;
      throw thrown;
    }
  }

  /** Until something happens; with batches that wait for the consumer, or a month that ends, no longer than a second. */
  async #wait(signal: Promise<void>): Promise<void> {
    if (this.unconfirmed === 0 && !this.#flow.exhausted()) return await signal;
    await sleepOr(GAPS_EVERY_MS, () => true, signal);
  }

  /** The consumer has them for good. */
  #confirmed(ids: readonly number[]): void {
    this.#acked.push(...ids);
    this.#count.out += ids.length;
  }

  /** What the consumer has not confirmed in time goes back, to be sent again. */
  #expire(): void {
    const late = this.#durable?.expired(performance.now()) ?? [];
    if (late.length === 0) return;
    this.#late.push(...late);
    for (const id of late) this.#note(id);
    this.#count.in -= late.length;
    this.#count.note("retried", late.length);
    this.#parts.log(
      "warn",
      `uplink ${this.#parts.uplink.name}: ${late.length} batches were not confirmed by the consumer in time, sending them again`,
    );
  }

  #send(batch: LeasedBatch): void {
    this.#count.in += 1;
    const sentMs = performance.now();
    const sent = this.#publish(batch).then(
      () => {
        this.#seconds.observe((performance.now() - sentMs) / 1000);
        this.#refusals.delete(batch.id);
        this.#again.delete(batch.id);
        // Retained messages alone stand for no row: nobody confirms them.
        if (this.#durable === undefined || batch.key.span === 0) this.#confirmed([batch.id]);
        else this.#durable.add(batch.id, batch.key, performance.now());
        this.#attempts = 0;
      },
      async (thrown: unknown) => {
        if (thrown instanceof WeirError && this.#isFinal(batch, thrown)) {
          this.#again.delete(batch.id);
          this.#count.rejected += 1;
          await this.#reject(batch, thrown.message);
          return;
        }
        this.#released.push(batch.id);
        this.#note(batch.id);
        this.#fail(thrown);
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

  /** It was sent, and will be once more; whoever was purged meanwhile goes with time. */
  #note(id: number): void {
    const [oldest] = this.#again;
    if (oldest !== undefined && this.#again.size >= MOST_AGAIN) this.#again.delete(oldest);
    this.#again.add(id);
  }

  /** Refused for good, or refused once too often. */
  #isFinal({ id }: LeasedBatch, { code, disposition }: WeirError): boolean {
    if (code === "uplink.refused") this.#refusals.set(id, (this.#refusals.get(id) ?? 0) + 1);
    const final = disposition === "reject" || (this.#refusals.get(id) ?? 0) >= MOST_REFUSALS;
    if (final) this.#refusals.delete(id);
    return final;
  }

  /** This round has failed. */
  #fail(thrown: unknown): void {
    this.#failed = true;
    this.#lastError = messageOf(thrown);
  }

  /** Sets a batch aside; where the outbox can't take that now, it is sent once more and refused again. */
  async #reject({ id }: LeasedBatch, reason: string): Promise<void> {
    try {
      await this.#parts.outbox.reject(this.#parts.uplink.name, id, reason);
    } catch (thrown) {
      this.#released.push(id);
      this.#fail(thrown);
      throw thrown;
    }
  }

  async #publish({ id, messages }: LeasedBatch): Promise<void> {
    const { uplink, log } = this.#parts;
    const again = this.#again.has(id);
    const send = async (message: Outgoing): Promise<void> => {
      try {
        await uplink.publish(message, again);
      } catch (thrown) {
        // A retained message is derived from the batch, which must not be set aside for it.
        if (!(message.retain && thrown instanceof WeirError && thrown.disposition === "reject")) throw thrown;
        log("warn", `uplink ${uplink.name}: ${message.topic} was refused: ${thrown.message}`);
      }
    };
    if (this.#flow.paces && messages.length > 1) {
      await this.#paced(messages, send);
      return;
    }
    this.#flow.take(messages.length, bytesOf(messages));
    await Promise.all(messages.map(send));
  }

  /** Parts, alarms and retained messages of one batch: no more a second than the limit, and none after one has failed. */
  async #paced(messages: readonly Outgoing[], send: (message: Outgoing) => Promise<void>): Promise<void> {
    const sent: Promise<void>[] = [];
    let failed = false;
    for (const message of messages) {
      // The first one's turn is what the batch was leased at. Without a connection the next one fails at once.
      while (sent.length > 0 && this.#flow.waitMs > 0 && !failed && this.#parts.uplink.connected)
        await sleep(Math.min(this.#flow.waitMs, LONGEST_PAUSE_MS));
      if (failed) break;
      this.#flow.take(1, bytesOf([message]));
      const one = send(message);
      one.catch(() => {
        failed = true;
      });
      sent.push(one);
    }
    await Promise.all(sent);
  }

  /** @returns how long until they are looked for again, in milliseconds: 0 when they have been */
  async #announceGaps(): Promise<number> {
    const { uplink, outbox, gapMessage, log } = this.#parts;
    const now = performance.now();
    if (now < this.#gapsAt) return this.#gapsAt - now;
    this.#gapsAt = now + GAPS_EVERY_MS;
    for (const gap of await outbox.gaps(uplink.name)) {
      if (gap.reason === "rejected")
        log(
          "warn",
          `uplink ${uplink.name}: ${gap.stream} ${gap.from} to ${gap.to} set aside: \`weir outbox export --rejected\` says why`,
        );
      await uplink.publish(gapMessage(gap));
      await outbox.gapDone(uplink.name, gap.id);
    }
    return 0;
  }

  /** Tells the outbox what has become of batches; called once for many. */
  async #settle(): Promise<void> {
    const { uplink, outbox } = this.#parts;
    const acked = this.#acked.splice(0);
    if (acked.length > 0) this.#settledAt = performance.now();
    try {
      if (acked.length > 0) await outbox.ack(uplink.name, acked);
    } catch (thrown) {
      // The outbox is away: it is told once it is back.
      this.#acked.unshift(...acked);
      throw thrown;
    }
    const late = this.#late.splice(0);
    try {
      if (late.length > 0) await outbox.release(uplink.name, late);
    } catch (thrown) {
      this.#late.unshift(...late);
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
      // What is due gets one more try.
      () => this.#stopping,
      this.#signal.promise,
    );
    this.#failed = false;
  }

  /** At the end: whatever is still out is given back, to be sent again with the same key. */
  async #giveBack(): Promise<void> {
    const { uplink, outbox } = this.#parts;
    const out = [
      ...this.#released.splice(0),
      ...this.#late.splice(0),
      ...this.#outstanding.keys(),
      ...(this.#durable?.clear() ?? []),
    ];
    if (out.length > 0) await outbox.release(uplink.name, out);
  }
}

const bytesOf = (messages: readonly Outgoing[]): number =>
  messages.reduce((sum, { payload, topic }) => sum + payload.byteLength + topic.length, 0);

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
