import type { Frame } from "../core/frame.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { DeviceMessage, Intake } from "../core/ports.ts";

/** Frames of the gateway's own that are kept: of a kernel with many events, half a minute. */
const MOST_FRAMES = 32;

/**
 * Keeps what comes before the loop runs. What devices wait for is bounded by the listener; QoS 0 is dropped: nothing bounds it. Of the
 * gateway's own frames the first ones are kept.
 */
export class EarlyIntake implements Intake {
  readonly #ledger: Ledger;
  readonly #count: StageCount;
  #waiting: DeviceMessage[] = [];
  #frames: { readonly source: string; readonly frame: Frame }[] = [];
  #intake: Intake | undefined;

  /** Messages count as those of source `devices`. */
  constructor(ledger: Ledger) {
    this.#ledger = ledger;
    this.#count = ledger.stage("source", "devices", "messages");
  }

  message(message: DeviceMessage): void {
    if (this.#intake !== undefined) this.#intake.message(message);
    else if (message.qos > 0) this.#waiting.push(message.keep?.() ?? message);
    else {
      this.#count.in += 1;
      this.#count.dropped += 1;
      message.settle?.("dropped");
    }
  }

  frame(source: string, frame: Frame): boolean {
    if (this.#intake !== undefined) return this.#intake.frame(source, frame);
    if (this.#frames.length < MOST_FRAMES) {
      this.#frames.push({ source, frame });
      return true;
    }
    const count = this.#ledger.stage("source", source, "samples");
    count.in += frame.rows;
    count.dropped += frame.rows;
    return false;
  }

  /** From now on everything goes on at once. */
  handOver(intake: Intake): void {
    this.#intake = intake;
    for (const message of this.#waiting) intake.message(message);
    for (const { source, frame } of this.#frames) intake.frame(source, frame);
    this.#waiting = [];
    this.#frames = [];
  }
}
