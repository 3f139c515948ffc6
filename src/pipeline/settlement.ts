/** What an input is owed once its output is committed, or will never be: its counts, its messages' acknowledgements, its effects. */
import type { Histogram } from "../core/histogram.ts";
import type { Ledger } from "../core/ledger.ts";
import type { ChainOutput, Outcome, Owed } from "../core/ports.ts";
import type { Decoding } from "./decoding.ts";
import type { Input } from "./input.ts";

/** So many messages of a chunk at least are measured as one. */
const MEASURE_EVERY = 16;

/** What settling is made of. */
export interface SettlementParts {
  readonly ledger: Ledger;
  /** called when a commit carried publish effects */
  readonly onEffects: () => void;
}

/** Settles inputs, in the order of their commits. */
export class Settlement {
  readonly #parts: SettlementParts;
  readonly #decoding: Decoding;
  readonly #ackSeconds: Histogram;

  constructor(parts: SettlementParts, decoding: Decoding) {
    this.#parts = parts;
    this.#decoding = decoding;
    this.#ackSeconds = parts.ledger.timing("device_ack");
  }

  /** Settles an input: nothing of it is used afterwards. */
  settle(input: Input, output: ChainOutput, outcome: Outcome): void {
    this.#decoding.settled(input, output.rejected);
    this.#countPlugins(output);
    // Its memory is free at once: what waits for the collector would be tens of megabytes.
    if (input.source === "devices" && output.frame.buffer !== input.frame.buffer)
      input.frame.buffer.transfer(0);
    const { waiting, refused } = input;
    this.#measure(waiting);
    for (const message of waiting)
      message.settle?.(refused.size > 0 && refused.has(message) ? "rejected" : outcome);
    if (outcome === "committed" && output.effects.some((effect) => effect.type === "publish"))
      this.#parts.onEffects();
  }

  #countPlugins({ counts }: ChainOutput): void {
    for (const part of counts) {
      const count = this.#parts.ledger.stage("plugin", part.plugin, "samples");
      count.in += part.in;
      count.out += part.out;
      count.rejected += part.rejected;
      count.dropped += part.dropped;
      count.note("emitted", part.emitted);
      count.note("refused", part.refused);
    }
  }

  /** How long messages waited for their settlement. */
  #measure(waiting: readonly Owed[]): void {
    const nowUs = Date.now() * 1000;
    const last = waiting.length - 1;
    let messages = 0;
    for (const [i, owed] of waiting.entries()) {
      messages += owed.messages ?? 1;
      if (messages < MEASURE_EVERY && i < last) continue;
      this.#ackSeconds.observe((nowUs - owed.timeUs) / 1e6, messages);
      messages = 0;
    }
  }
}
