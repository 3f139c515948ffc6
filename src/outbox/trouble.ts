/** Trouble: the database can't be written to. It is noticed, told, looked at again and again, and over. */
import { errnoOf, messageOf, type WeirError } from "../core/errors.ts";
import type { Trouble } from "./plan.ts";
import { storageError } from "./schema.ts";
import { DISPLACED, type Store, WAL_FULL } from "./store.ts";

/** Looks at a database that can't be written to before it is opened anew. */
const LOOKS = 3;

/** What is done about it. */
export interface TroubleActions {
  /** there is trouble, or (undefined) it is over */
  readonly tell: (trouble: Trouble | undefined) => void;
  /** it stays: the worker is to end, and the next one opens the file anew, which may be on another file system by then */
  readonly end: (error: WeirError) => void;
}

/** Watches over one open database. */
export class TroubleWatch {
  readonly #store: Store;
  readonly #actions: TroubleActions;
  #trouble: Trouble | undefined;
  #looks = 0;

  constructor(store: Store, actions: TroubleActions) {
    this.#store = store;
    this.#actions = actions;
  }

  /** Takes a call's error: what SQLite says of the file, and not of what was asked, is trouble; the database's own limit is none. */
  note({ code, cause, message }: WeirError): void {
    const errno = errnoOf(cause) ?? "";
    const ofFile = errno.startsWith("SQLITE_") && (errno !== "SQLITE_FULL" || this.#store.tight);
    if (code === "outbox.commit" && ofFile) this.#set(message);
  }

  /** Looks whether trouble is over, or has come unnoticed. Call it every second. A full disk is waited for: the reserve says when there is room. */
  look(): void {
    const before = this.#trouble;
    if (before === undefined && !this.#store.displaced && !this.#store.walFull) return;
    this.#looks += 1;
    try {
      this.#store.probe();
      if (this.#store.tight) return;
      if (this.#store.displaced) this.#set(DISPLACED);
      else if (this.#store.walFull) this.#set(WAL_FULL);
      else if (before !== undefined) {
        if (this.#looks > 1) this.#store.tellOfTrouble(before);
        this.#set(undefined);
      }
    } catch (thrown) {
      this.#set(before?.message ?? messageOf(thrown));
      const locked = errnoOf(thrown)?.startsWith("SQLITE_BUSY") === true;
      if (this.#looks >= LOOKS && !this.#store.tight && !locked) this.#actions.end(storageError(thrown));
    }
  }

  #set(message: string | undefined): void {
    if (message === this.#trouble?.message) return;
    const sinceMs = this.#trouble?.sinceMs ?? Date.now();
    this.#trouble = message === undefined ? undefined : { sinceMs, message };
    if (message === undefined) this.#looks = 0;
    this.#actions.tell(this.#trouble);
  }
}
