import type { StageCount } from "../core/ledger.ts";
import type { DeviceMessage, Intake } from "../core/ports.ts";

/** Keeps what devices send before the loop runs; what is unacknowledged is bounded by the listener. QoS 0 is dropped: nothing bounds it. */
export class EarlyIntake implements Intake {
  readonly #count: StageCount;
  #waiting: DeviceMessage[] = [];
  #intake: Intake | undefined;

  /** `count`: the stage of the source whose messages come here */
  constructor(count: StageCount) {
    this.#count = count;
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

  frame(source: string, frame: Parameters<Intake["frame"]>[1]): boolean {
    return this.#intake?.frame(source, frame) ?? false;
  }

  /** From now on everything goes on at once. */
  handOver(intake: Intake): void {
    this.#intake = intake;
    for (const message of this.#waiting) intake.message(message);
    this.#waiting = [];
  }
}
