/**
 * Word from the system that something in a folder may have changed: a reason to look now. Not every file system gives it (the
 * network's, lower layers of an overlay), and none for what is renamed into the path above or mounted over it: whoever needs to
 * know also looks now and then.
 */
import { type FSWatcher, watch } from "node:fs";

/** More than these folders are not watched: each takes one of the user's inotify watches. */
const MOST_FOLDERS = 256;

/** Watches folders, not what is below them. */
export class FolderHints {
  readonly #onHint: () => void;
  #watchers: readonly FSWatcher[] = [];

  constructor(onHint: () => void) {
    this.#onHint = onHint;
  }

  /** Watches these and no others from now on; one that isn't there, or can't be watched, is left out. */
  watch(folders: readonly string[]): void {
    this.close();
    this.#watchers = folders.slice(0, MOST_FOLDERS).flatMap((folder) => {
      try {
        const watcher = watch(folder, { persistent: false }, this.#onHint);
        watcher.on("error", () => watcher.close());
        return watcher;
      } catch {
        return [];
      }
    });
  }

  close(): void {
    for (const watcher of this.#watchers) watcher.close();
    this.#watchers = [];
  }
}
