/** Where a message's samples wait until the whole message has turned out to be valid. */
import { FrameLimits, Kind, nameProblem, utf8Length } from "../core/frame.ts";
import type { FrameBuilder } from "../core/frame-builder.ts";
import type { Declaration, Declarations } from "./declared.ts";

/** Words that a declared boolean may come as. */
const BOOLEANS: ReadonlyMap<string, 0 | 1> = new Map([
  ...["true", "on", "yes", "1"].map((word) => [word, 1] as const),
  ...["false", "off", "no", "0"].map((word) => [word, 0] as const),
]);
/** Samples of one message, at most. */
export const MESSAGE_SAMPLES = 2048;
/** Nodes of the path tree; a tree that is full is thrown away and grows again. */
const MOST_NODES = 16_384;

/** A metric's name, as the path to its value in a message. */
export interface PathNode {
  readonly path: string;
  readonly children: Map<string, PathNode>;
}

/**
 * The paths seen in messages. Remembering them saves joining and checking the names of every message again.
 */
export class PathTree {
  #count = 0;
  /** the place of nothing: its children are the first names */
  root: PathNode = { path: "", children: new Map() };

  /** The node of `key` below `parent`, or the reason why its path can't be a metric's name. */
  child(parent: PathNode, key: string): PathNode | string {
    const known = parent.children.get(key);
    if (known !== undefined) return known;
    const path = parent === this.root ? key : `${parent.path}.${key}`;
    // Lone surrogates would all become U+FFFD, and two names one.
    const problem = path.isWellFormed() ? nameProblem(path) : "is not valid Unicode";
    if (problem !== undefined) return `metric ${JSON.stringify(path.slice(0, 64))} ${problem}`;
    if (this.#count >= MOST_NODES) {
      this.#count = 0;
      this.root.children.clear();
    }
    this.#count += 1;
    const node: PathNode = { path, children: new Map() };
    parent.children.set(key, node);
    return node;
  }
}

/** One message's samples, reused from message to message. */
export class Samples {
  readonly #names: string[] = [];
  readonly #kinds: Kind[] = [];
  readonly #numbers: number[] = [];
  readonly #texts: string[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Forgets what a message that turned out bad has left. */
  clear(): void {
    if (this.#count === 0) return;
    this.#count = 0;
    this.#texts.length = 0;
  }

  /** Adds a sample that is not text. Returns a reason when there are too many. */
  number(name: string, kind: Kind, value: number): string | undefined {
    if (this.#count === MESSAGE_SAMPLES) return `more than ${MESSAGE_SAMPLES} values`;
    const at = this.#count++;
    this.#names[at] = name;
    this.#kinds[at] = kind;
    this.#numbers[at] = value;
    return undefined;
  }

  /** Adds a text. Returns a reason when it is too long, or there are too many samples. */
  text(name: string, text: string): string | undefined {
    if (
      text.length > FrameLimits.textBytes ||
      (text.length * 3 > FrameLimits.textBytes && utf8Length(text) > FrameLimits.textBytes)
    ) {
      return `text of ${JSON.stringify(name)} is over ${FrameLimits.textBytes} bytes`;
    }
    this.#texts[this.#count] = text.isWellFormed() ? text : text.toWellFormed();
    return this.number(name, Kind.text, 0);
  }

  /** Makes samples the types that are declared for them. Returns why one can't be. */
  convert(declared: Declarations): string | undefined {
    if (!declared.converts) return undefined;
    for (let i = 0; i < this.#count; i++) {
      const name = this.#names[i] ?? "";
      const { type } = declared.of(name);
      if (type !== undefined && this.#kinds[i] !== Kind.null && !this.#convert(i, type))
        return `${JSON.stringify(name.slice(0, 64))} is not ${type === "integer" ? "an" : "a"} ${type}`;
    }
    return undefined;
  }

  #convert(at: number, type: NonNullable<Declaration["type"]>): boolean {
    const kind = this.#kinds[at];
    const text = kind === Kind.text ? (this.#texts[at] ?? "").trim() : undefined;
    const number = this.#numbers[at] ?? 0;
    if (type === "text") {
      if (text !== undefined) return true;
      this.#texts[at] = kind === Kind.boolean ? String(number === 1) : String(number);
      this.#kinds[at] = Kind.text;
      return true;
    }
    if (type === "boolean") {
      const word = text === undefined ? String(number) : text.toLowerCase();
      const value = BOOLEANS.get(word);
      if (value === undefined) return false;
      this.#set(at, Kind.boolean, value);
      return true;
    }
    const value = text === undefined ? number : text === "" ? Number.NaN : Number(text);
    if (!Number.isFinite(value)) return false;
    if (type === "integer" && !Number.isSafeInteger(value)) return false;
    this.#set(at, type === "integer" ? Kind.integer : Kind.number, value);
    return true;
  }

  #set(at: number, kind: Kind, value: number): void {
    this.#kinds[at] = kind;
    this.#numbers[at] = value;
    this.#texts[at] = "";
  }

  /** Moves all samples into a frame, as rows of one device, time and status. */
  moveTo(into: FrameBuilder, device: string, timeUs: number, status: number, declared: Declarations): void {
    const index = into.device(device);
    for (let i = 0; i < this.#count; i++) {
      const kind = this.#kinds[i] ?? Kind.null;
      let value = this.#numbers[i] ?? 0;
      if (kind === Kind.text) {
        value = into.text(this.#texts[i] ?? "");
        this.#texts[i] = "";
      }
      const name = this.#names[i] ?? "";
      into.add(index, into.metric(name, declared.of(name).unit), timeUs, kind, status, value);
    }
    this.#count = 0;
  }
}
