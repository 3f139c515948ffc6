/** The uplink to the agent's own broker: a function call away, connected while the broker runs, or the one in its place can be reached. */
import type { LocalBroker, Outgoing, Uplink } from "../core/ports.ts";
import type { UplinkOptions } from "./options.ts";

/** Time to say goodbye in, in milliseconds: a broker in the embedded one's place may never answer. */
const GOODBYE_MS = 1_000;

/** Publishes on the embedded broker. `status` makes the retained status message. */
export class LocalUplink implements Uplink {
  readonly name: string;
  readonly window: number;
  readonly mostPayloadBytes: undefined;
  readonly #broker: LocalBroker;
  readonly #status: (online: boolean) => Outgoing;
  readonly #listeners = new Set<() => void>();
  #unhear: () => void = () => {};
  #started = false;
  /** said hello since the broker was reached last */
  #greeted = false;

  constructor(
    name: string,
    options: UplinkOptions,
    broker: LocalBroker,
    status: (online: boolean) => Outgoing,
  ) {
    this.name = name;
    this.window = options.window;
    this.#broker = broker;
    this.#status = status;
  }

  get connected(): boolean {
    return this.#greeted && this.#broker.connected;
  }

  get lastError(): string | undefined {
    return this.connected ? undefined : "the broker in the embedded one's place can't be reached";
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
    await this.#greet();
    this.#started = true;
    this.#unhear = this.#broker.onChange(() => this.#changed());
    this.#tell();
  }

  async publish(message: Outgoing): Promise<void> {
    await this.#broker.publish(message);
  }

  async stop(): Promise<void> {
    const { connected } = this;
    this.#started = this.#greeted = false;
    this.#unhear();
    if (!connected) return;
    // The broker is closing too: a failure here has nobody left to tell.
    const goodbye = this.#broker.publish(this.#status(false)).catch(() => {});
    await Promise.race([goodbye, new Promise((resolve) => setTimeout(resolve, GOODBYE_MS).unref())]);
  }

  /** A broker that has come back, or another one, is told that the gateway is there before anything else. */
  #changed(): void {
    this.#greeted = false;
    if (!this.#broker.connected) this.#tell();
    // It is gone again: it says so.
    else
      void this.#greet().then(
        () => this.#tell(),
        () => {},
      );
  }

  async #greet(): Promise<void> {
    await this.#broker.publish(this.#status(true));
    this.#greeted = true;
  }

  #tell(): void {
    if (this.#started) for (const listener of this.#listeners) listener();
  }
}
