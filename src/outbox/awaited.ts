/** What was learnt of devices that have sent no sample yet, and may never send one: bounded, what was learnt longest ago goes first. */
import { type DeviceAbout, mergeAbout } from "../core/device.ts";
import { charactersOf } from "./device.ts";

const MOST_DEVICES = 10_000;
/** Of all of them: one that tells of itself at length must not take what thousands need. */
const MOST_CHARACTERS = 4 * 2 ** 20;

/** Devices that are told of before they send. */
export class Awaited {
  readonly #known = new Map<string, { readonly about: DeviceAbout; readonly characters: number }>();
  #characters = 0;

  get(device: string): DeviceAbout | undefined {
    return this.#known.get(device)?.about;
  }

  learn(device: string, news: DeviceAbout): void {
    const before = this.get(device);
    this.delete(device);
    const about = before === undefined ? news : mergeAbout(before, news);
    const characters = charactersOf(device, about);
    this.#known.set(device, { about, characters });
    this.#characters += characters;
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= MOST_DEVICES && this.#characters <= MOST_CHARACTERS) break;
      this.delete(oldest);
    }
  }

  delete(device: string): void {
    this.#characters -= this.#known.get(device)?.characters ?? 0;
    this.#known.delete(device);
  }
}
