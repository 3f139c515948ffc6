/** The chunk that device messages are being put into, until it is sealed. */

import { Status } from "../core/frame.ts";
import { FrameBuilder } from "../core/frame-builder.ts";
import { type Messages, MessagesBuilder } from "../core/messages.ts";
import type { DeviceMessage, Owed } from "../core/ports.ts";
import { TraceCollector } from "../core/trace.ts";
import type { Decoding } from "./decoding.ts";
import { frameInput, type Input } from "./input.ts";
import { correctTimes, type GivenTimes, given, type KnownTime } from "./known-time.ts";

/** It is full when its raw messages reach this many bytes … */
const CHUNK_BYTES = 1024 * 1024;
/** … or its frame these: one more message of the longest names still fits a frame. */
const FRAME_BYTES = 2 * 1024 * 1024;
/** What a message takes besides its payload. */
const MESSAGE_BYTES = 64;

/** Collects messages: their rows, or themselves for the plugins that decode them. */
export class OpenChunk {
  readonly #decoding: Decoding;
  readonly #clock: KnownTime;
  readonly #builder = new FrameBuilder(4096);
  #waiting: Owed[] = [];
  /** of them, what the message before has been joined to */
  #joined: Owed | undefined;
  #refused = new Set<Owed>();
  #byPlugin = new Map<string, { readonly builder: MessagesBuilder; readonly messages: DeviceMessage[] }>();
  #given: GivenTimes | undefined;
  readonly #traces = new TraceCollector();
  #messages = 0;
  #bytes = 0;

  constructor(decoding: Decoding, clock: KnownTime) {
    this.#decoding = decoding;
    this.#clock = clock;
  }

  /** Bytes of the messages in it. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#messages === 0;
  }

  /** Whether it is to be sealed, when a chunk may have so many samples. */
  isFull(samples: number): boolean {
    return (
      this.#builder.rows >= samples ||
      this.#messages >= samples ||
      this.#bytes > CHUNK_BYTES ||
      this.#builder.byteLength > FRAME_BYTES
    );
  }

  /** Takes a message in: valid or not, it will be settled with the chunk. */
  add(message: DeviceMessage): void {
    const { plugin } = message.route;
    const isValid = plugin !== undefined || this.#decoding.now(message, this.#builder);
    const { trace, from = 0, to = message.payload.byteLength } = message;
    if (trace !== undefined && isValid) this.#traces.add(trace);
    this.#messages += 1;
    this.#bytes += to - from + MESSAGE_BYTES;
    const joined = plugin === undefined && isValid ? message.join?.(this.#joined) : undefined;
    if (joined === undefined) this.#keep(message, plugin, isValid);
    else if (joined !== this.#joined) {
      this.#waiting.push(joined);
      this.#joined = joined;
    }
  }

  /** Takes a message in that is not one of many. */
  #keep(message: DeviceMessage, plugin: string | undefined, isValid: boolean): void {
    const kept = message.keep?.() ?? message;
    if (plugin !== undefined) this.#keepFor(plugin, kept);
    if (!isValid) this.#refused.add(kept);
    if (kept.settle !== undefined) this.#waiting.push(kept);
  }

  /** Gives what was collected, and begins the next chunk. */
  seal(): Input {
    const frame = this.#builder.build();
    this.#decoding.made(frame.rows);
    correctTimes(frame, this.#clock, Status.gatewayTime);
    const messages = new Map<string, Messages>();
    const byPlugin = new Map<string, readonly DeviceMessage[]>();
    for (const [plugin, group] of this.#byPlugin) {
      messages.set(plugin, group.builder.build());
      byPlugin.set(plugin, group.messages);
    }
    const input = {
      ...frameInput("devices", "data", frame),
      messages,
      byPlugin,
      waiting: this.#waiting,
      refused: this.#refused,
      bytes: frame.byteLength + this.#bytes,
      given: this.#given,
      traces: this.#traces.take(this.#messages - this.#refused.size),
    };
    this.#waiting = [];
    this.#joined = undefined;
    this.#refused = new Set();
    this.#byPlugin = new Map();
    this.#given = undefined;
    this.#messages = 0;
    this.#bytes = 0;
    return input;
  }

  #keepFor(plugin: string, message: DeviceMessage): void {
    let group = this.#byPlugin.get(plugin);
    if (group === undefined) {
      group = { builder: new MessagesBuilder(), messages: [] };
      this.#byPlugin.set(plugin, group);
    }
    const { route, topic, payload } = message;
    const timeUs = message.timeUs + this.#clock.offsetUs;
    if (!this.#clock.valid) this.#given = given(this.#given, timeUs);
    group.builder.add(route.device, route.channel, topic, timeUs, payload);
    group.messages.push(message);
    this.#decoding.later();
  }
}
