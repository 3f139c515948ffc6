/**
 * Devices that publish stamped messages at QoS 1 for as long as they are told to. A number is sent once: what was not
 * acknowledged when a connection broke is given up, and the device goes on with the next. So a number that comes twice was
 * doubled by Weir.
 */
import { randomBytes } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import mqtt from "mqtt";
import { Ranges } from "./ranges.ts";
import { stampOf } from "./stamp.ts";

/** How much is sent. */
export interface LoadOptions {
  readonly devices: number;
  /** messages a second of each device; 0: as many as are acknowledged */
  readonly perSecond: number;
  /** unacknowledged messages of each device */
  readonly inFlight: number;
  /** bytes added to each message, as a text that hardly compresses */
  readonly padBytes: number;
}

interface Device {
  readonly name: string;
  readonly acknowledged: Ranges;
  next: number;
}

/** The devices. */
export class Load {
  readonly #options: LoadOptions;
  readonly #devices: readonly Device[];
  #address: () => Promise<string>;
  #running: Promise<unknown> | undefined;
  #stop = new AbortController();

  /** `address` gives host and port of the broker, and is asked before each connection. */
  constructor(address: () => Promise<string>, options: Partial<LoadOptions> = {}) {
    this.#options = { devices: 4, perSecond: 100, inFlight: 20, padBytes: 0, ...options };
    this.#address = address;
    this.#devices = Array.from({ length: this.#options.devices }, (_, i) => ({
      name: `d${i}`,
      acknowledged: new Ranges(),
      next: 0,
    }));
  }

  /** Messages that were acknowledged. */
  get acknowledged(): number {
    return this.#devices.reduce((sum, { acknowledged }) => sum + acknowledged.size, 0);
  }

  /** Messages that were sent. */
  get sent(): number {
    return this.#devices.reduce((sum, { next }) => sum + next, 0);
  }

  /** By device: the numbers that were acknowledged, as ranges. */
  get ranges(): Readonly<Record<string, readonly (readonly [number, number])[]>> {
    return Object.fromEntries(this.#devices.map(({ name, acknowledged }) => [name, acknowledged.all]));
  }

  /** By device: the next number. */
  get next(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#devices.map(({ name, next }) => [name, next]));
  }

  start(): void {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#running = Promise.all(this.#devices.map((device) => this.#run(device, signal)));
  }

  /** Sends nothing more, and waits up to five seconds for what is unacknowledged. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(device: Device, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#connection(device, await this.#address(), signal);
      } catch {
        // No agent there at the moment.
      }
      if (!signal.aborted) await setTimeout(50);
    }
  }

  /** One connection, until it breaks or the load stops. */
  async #connection(device: Device, address: string, signal: AbortSignal): Promise<void> {
    const client = mqtt.connect(`mqtt://${address}`, { reconnectPeriod: 0, connectTimeout: 5_000 });
    const closed = new Promise<void>((done) => client.once("close", () => done()));
    let open = true;
    void closed.then(() => {
      open = false;
    });
    client.on("error", () => {});
    let inFlight = 0;
    const drained = Promise.withResolvers<void>();
    const { perSecond, inFlight: most, padBytes } = this.#options;
    const publish = (): void => {
      const n = device.next++;
      const h = stampOf(device.name, n);
      const pad = padBytes === 0 ? {} : { pad: randomBytes(Math.ceil(padBytes * 0.75)).toString("base64") };
      inFlight += 1;
      client.publish(
        `devices/${device.name}/t`,
        JSON.stringify({ n, h, ...pad }),
        { qos: 1 },
        (error?: Error) => {
          inFlight -= 1;
          if (!error) device.acknowledged.add(n);
          if (inFlight === 0 && signal.aborted) drained.resolve();
          if (perSecond === 0 && open && !signal.aborted) publish();
        },
      );
    };
    try {
      await Promise.race([new Promise((done) => client.once("connect", done)), closed]);
      if (perSecond === 0) for (let i = 0; i < most && open; i++) publish();
      const began = performance.now();
      for (let due = 0; open && !signal.aborted; ) {
        await Promise.race([setTimeout(20), closed]);
        if (perSecond === 0) continue;
        const now = Math.floor(((performance.now() - began) / 1000) * perSecond);
        // What can't be sent in time is not sent later.
        for (; due < now && inFlight < most && open; due++) publish();
        due = now;
      }
      if (inFlight > 0 && open) await Promise.race([drained.promise, closed, setTimeout(5_000)]);
    } finally {
      client.end(true);
    }
  }
}
