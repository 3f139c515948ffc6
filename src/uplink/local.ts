/** The uplink to the agent's own broker: a function call away, always connected while the broker runs. */
import type { LocalPublisher, Outgoing, Uplink } from "../core/ports.ts";
import type { UplinkOptions } from "./options.ts";

/** Publishes on the embedded broker. `status` makes the retained status message. */
export class LocalUplink implements Uplink {
  readonly name: string;
  readonly window: number;
  readonly lastError: undefined;
  readonly mostPayloadBytes: undefined;
  readonly #publisher: LocalPublisher;
  readonly #status: (online: boolean) => Outgoing;
  readonly #listeners = new Set<() => void>();
  #connected = false;

  constructor(
    name: string,
    options: UplinkOptions,
    publisher: LocalPublisher,
    status: (online: boolean) => Outgoing,
  ) {
    this.name = name;
    this.window = options.window;
    this.#publisher = publisher;
    this.#status = status;
  }

  get connected(): boolean {
    return this.#connected;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Nobody speaks for what reads at the agent's own broker. */
  onDurable(): () => void {
    return () => {};
  }

  async start(): Promise<void> {
    await this.#publisher.publish(this.#status(true));
    this.#connected = true;
    for (const listener of this.#listeners) listener();
  }

  async publish(message: Outgoing): Promise<void> {
    await this.#publisher.publish(message);
  }

  async stop(): Promise<void> {
    if (!this.#connected) return;
    this.#connected = false;
    // The broker is closing too: a failure here has nobody left to tell.
    await this.#publisher.publish(this.#status(false)).catch(() => {});
  }
}
