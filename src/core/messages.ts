/** Raw device messages as columns: what a decoder plugin is given. One structure for a whole chunk's messages. */

/** Message `i` has payload bytes `end[i - 1]` (0 for the first) to `end[i]`. */
export interface Messages {
  readonly devices: readonly string[];
  readonly channels: readonly string[];
  readonly topics: readonly string[];
  /** message → index into `devices` */
  readonly device: Uint32Array;
  readonly channel: Uint32Array;
  readonly topic: Uint32Array;
  /** microseconds since the Unix epoch, whole numbers: when the message arrived */
  readonly time: Float64Array;
  readonly end: Uint32Array;
  readonly payload: Uint8Array;
}

/** Collects messages for one decoder plugin until the chunk is sealed. */
export class MessagesBuilder {
  readonly #devices = new Map<string, number>();
  readonly #channels = new Map<string, number>();
  readonly #topics = new Map<string, number>();
  readonly #device: number[] = [];
  readonly #channel: number[] = [];
  readonly #topic: number[] = [];
  readonly #time: number[] = [];
  readonly #end: number[] = [];
  readonly #payloads: Uint8Array[] = [];
  #bytes = 0;

  /** Adds a message; its payload must stay unchanged until {@link build}. */
  add(device: string, channel: string, topic: string, timeUs: number, payload: Uint8Array): void {
    this.#device.push(intern(this.#devices, device));
    this.#channel.push(intern(this.#channels, channel));
    this.#topic.push(intern(this.#topics, topic));
    this.#time.push(timeUs);
    this.#bytes += payload.byteLength;
    this.#end.push(this.#bytes);
    this.#payloads.push(payload);
  }

  /** The messages so far. Use the builder for one chunk only. */
  build(): Messages {
    return {
      devices: [...this.#devices.keys()],
      channels: [...this.#channels.keys()],
      topics: [...this.#topics.keys()],
      device: Uint32Array.from(this.#device),
      channel: Uint32Array.from(this.#channel),
      topic: Uint32Array.from(this.#topic),
      time: Float64Array.from(this.#time),
      end: Uint32Array.from(this.#end),
      payload: Buffer.concat(this.#payloads, this.#bytes),
    };
  }
}

/** Some of the messages, by their indexes, in that order; the dictionaries stay whole. */
export function pick(messages: Messages, indexes: readonly number[]): Messages {
  const column = (from: Uint32Array): Uint32Array => Uint32Array.from(indexes, (index) => from[index] ?? 0);
  const payloads = indexes.map((index) =>
    messages.payload.subarray(index === 0 ? 0 : messages.end[index - 1], messages.end[index]),
  );
  let bytes = 0;
  return {
    ...messages,
    device: column(messages.device),
    channel: column(messages.channel),
    topic: column(messages.topic),
    time: Float64Array.from(indexes, (index) => messages.time[index] ?? 0),
    end: Uint32Array.from(payloads, (payload) => {
      bytes += payload.byteLength;
      return bytes;
    }),
    payload: Buffer.concat(payloads),
  };
}

function intern(entries: Map<string, number>, entry: string): number {
  let index = entries.get(entry);
  if (index === undefined) {
    index = entries.size;
    entries.set(entry, index);
  }
  return index;
}
