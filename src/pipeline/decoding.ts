/**
 * The decode stage and its account. A message becomes rows at once, or, where its rule names a plugin, is kept for the plugin's
 * call; what can't be decoded is rejected, and acknowledged all the same.
 */
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { Ledger, StageCount } from "../core/ledger.ts";
import type { ChainOutput, DeviceMessage, MessageDecoder } from "../core/ports.ts";
import type { Input } from "./input.ts";
import type { RejectedLog } from "./rejected.ts";

/** What the stage is made of. */
export interface DecodingParts {
  readonly decoder: MessageDecoder;
  readonly ledger: Ledger;
  readonly rejected: RejectedLog;
}

/** Decodes, and counts what became of every message. */
export class Decoding {
  readonly #decoder: MessageDecoder;
  readonly #rejected: RejectedLog;
  readonly #count: StageCount;
  /** messages that wait for a plugin to decode them */
  #held = 0;

  constructor({ decoder, ledger, rejected }: DecodingParts) {
    this.#decoder = decoder;
    this.#rejected = rejected;
    this.#count = ledger.stage("decode", "devices", "messages", () => this.#held);
    this.#count.note("made", 0);
  }

  /** Decodes a message into rows. False when it isn't valid. */
  now(message: DeviceMessage, builder: FrameBuilder): boolean {
    this.#count.in += 1;
    const reason = this.#decoder.decode(message, builder);
    if (reason !== undefined) {
      this.#refuse(message, reason);
      return false;
    }
    this.#count.out += 1;
    return true;
  }

  /** So many rows were made of messages. */
  made(rows: number): void {
    this.#count.note("made", rows);
  }

  /** A message is kept for a plugin, until its input is {@link settled}. */
  later(): void {
    this.#count.in += 1;
    this.#held += 1;
  }

  /** What plugins decoded is committed, and what they refused is known. */
  settled({ byPlugin, refused }: Input, rejected: ChainOutput["rejected"]): void {
    for (const { plugin, index, reason } of rejected) {
      const message = byPlugin.get(plugin)?.[index];
      if (message === undefined || refused.has(message)) continue;
      refused.add(message);
      this.#refuse(message, reason);
    }
    for (const messages of byPlugin.values()) {
      this.#held -= messages.length;
      for (const message of messages) if (!refused.has(message)) this.#count.out += 1;
    }
  }

  #refuse(message: DeviceMessage, reason: string): void {
    this.#count.rejected += 1;
    this.#rejected.add(message, reason);
  }
}
