/** How devices are laid out on pages, which of those differ from what is stored, and who is to be forgotten there. */
import { type Device, type Page, pageBytes } from "./device.ts";

/** Devices on a page: twenty that send all the time are one row of the database, not twenty. */
const PAGE_DEVICES = 64;

/** What is to be stored. */
export interface Unstored {
  readonly pages: readonly Page[];
  /** devices that are gone */
  readonly gone: readonly string[];
}

/** All pages. */
export class Pages {
  /** those that differ from their rows, the longest first */
  readonly #dirty: Page[] = [];
  /** those that have room */
  readonly #roomy = new Set<Page>();
  #last = 0;
  #gone: string[] = [];

  /** A page as an earlier run has stored it. */
  known(id: number): Page {
    this.#last = Math.max(this.#last, id);
    return { id, devices: new Set(), dirtyMs: undefined, storedBytes: 0 };
  }

  /** A page with room for one more device, which is put there next. */
  place(): Page {
    const [page = this.#make()] = this.#roomy;
    if (page.devices.size < PAGE_DEVICES - 1) this.#roomy.add(page);
    else this.#roomy.delete(page);
    return page;
  }

  /** Pages are as they are stored; one that has lost some of the devices that it was stored with is not. */
  loaded(stored: readonly { readonly page: Page; readonly devices: number }[]): void {
    for (const page of this.#dirty.splice(0)) page.dirtyMs = undefined;
    for (const { page, devices } of stored) {
      page.storedBytes = pageBytes(page);
      if (page.devices.size < PAGE_DEVICES) this.#roomy.add(page);
      if (page.devices.size < devices) this.soil(page);
    }
  }

  /** A page differs from its row. */
  soil(page: Page): void {
    if (page.dirtyMs !== undefined) return;
    page.dirtyMs = performance.now();
    this.#dirty.push(page);
  }

  /** Puts a device on a page of its own: the one that it is on is full. */
  move(device: Device): void {
    device.page.devices.delete(device);
    device.page = this.#make();
    device.page.devices.add(device);
    device.dirty = true;
    this.soil(device.page);
  }

  /** A device is forgotten. */
  leave(leaving: Device): void {
    const { device, page } = leaving;
    page.devices.delete(leaving);
    this.#roomy.add(page);
    this.soil(page);
    this.#gone.push(device);
  }

  /** A device that is stored has no room any more. */
  forget(device: string): void {
    this.#gone.push(device);
  }

  /** Pages that have differed from their rows since before `sinceMs` (monotonic), the longest first, and devices that are gone. */
  unstored(most: number, sinceMs: number): Unstored {
    const end = this.#dirty.findIndex(({ dirtyMs = 0 }, i) => i === most || dirtyMs > sinceMs);
    return { pages: end < 0 ? [...this.#dirty] : this.#dirty.slice(0, end), gone: this.#gone };
  }

  /** What {@link unstored} gave is stored. */
  stored({ pages }: Unstored): void {
    this.#dirty.splice(0, pages.length);
    for (const page of pages) {
      page.dirtyMs = undefined;
      page.storedBytes = pageBytes(page);
      for (const device of page.devices) device.dirty = false;
    }
    this.#gone = [];
  }

  #make(): Page {
    this.#last += 1;
    return this.known(this.#last);
  }
}
