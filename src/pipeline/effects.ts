import { messageOf, WeirError } from "../core/errors.ts";
import type { StageCount } from "../core/ledger.ts";
import type { LocalPublisher, Outbox } from "../core/ports.ts";

/** Does committed publish effects on the embedded broker, at least once each, oldest first. */
export class Effects {
  readonly #outbox: Outbox;
  readonly #publisher: () => LocalPublisher | undefined;
  readonly #count: StageCount;
  readonly #log: (message: string) => void;
  #running: Promise<void> | undefined;
  #again = false;

  /** Without a publisher (the embedded broker is off) effects are dropped and counted; while it can't be reached they wait. */
  constructor(
    outbox: Outbox,
    publisher: () => LocalPublisher | undefined,
    count: StageCount,
    log: (message: string) => void,
  ) {
    this.#outbox = outbox;
    this.#publisher = publisher;
    this.#count = count;
    this.#log = log;
  }

  /** Does everything that waits. Calls while it runs make it look once more. */
  run(): void {
    this.#again = true;
    this.#running ??= this.#loop().finally(() => {
      this.#running = undefined;
    });
  }

  /** Resolves when nothing is being done. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #loop(): Promise<void> {
    try {
      while (this.#again) {
        this.#again = false;
        const waiting = await this.#outbox.effects();
        const done: number[] = [];
        try {
          for (const { id, effect } of waiting) {
            await this.#do(effect);
            done.push(id);
          }
        } finally {
          if (done.length > 0) await this.#outbox.effectsDone(done);
        }
        if (done.length > 0) this.#again = true;
      }
    } catch (thrown) {
      this.#log(`effects wait for the next commit: ${messageOf(thrown)}`);
    }
  }

  async #do(effect: Awaited<ReturnType<Outbox["effects"]>>[number]["effect"]): Promise<void> {
    if (effect.type !== "publish") return;
    this.#count.in += 1;
    const publisher = this.#publisher();
    if (publisher === undefined) {
      this.#count.dropped += 1;
      return;
    }
    const { topic, payload, qos, retain } = effect;
    try {
      await publisher.publish({
        topic,
        payload,
        qos,
        retain,
        contentType: undefined,
        userProperties: undefined,
      });
      this.#count.out += 1;
    } catch (thrown) {
      if (thrown instanceof WeirError && thrown.disposition === "retry") {
        this.#count.in -= 1;
        throw thrown;
      }
      this.#count.rejected += 1;
      this.#log(`plugin ${effect.plugin} publishes to ${JSON.stringify(topic)}: ${messageOf(thrown)}`);
    }
  }
}
