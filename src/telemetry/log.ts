/**
 * The agent's log: JSON lines on standard error, or readable ones on a terminal.
 *
 * Levels by rule: `error`: data was lost, or a person is needed. `warn`: something is wrong and Weir deals with it. `info`: the
 * life of the agent and its parts. `debug`: the rest. What is said again and again is left out and counted; secrets never
 * reach the output.
 */
import { type Logger, pino } from "pino";

export type { Logger } from "pino";

/** How the log is written. */
export interface LogOptions {
  /** the least level that is written */
  readonly level: string;
  /** whether a person reads it */
  readonly terminal: boolean;
}

/** Lines of one kind that are written in {@link WINDOW_MS}; what differs in numbers and quoted names alone is of one kind. */
const MOST_LINES = 10;
const WINDOW_MS = 60_000;
const MOST_KINDS = 512;
/** Longest message, in characters: what is longer quotes somebody who wants the memory. */
const MOST_CHARACTERS = 8_192;
/** Lines kept for a support bundle. */
const KEPT_LINES = 300;

interface Kind {
  sinceMs: number;
  lines: number;
  left: number;
}

/** The log of one agent. */
export class AgentLog {
  /** writes; every level is rate-limited */
  readonly logger: Logger;
  readonly #recent: string[] = [];
  readonly #kinds = new Map<string, Kind>();
  #suppressed = 0;
  #redact: (text: string) => string = (text) => text;

  constructor({ level, terminal }: LogOptions) {
    const write = (line: string): void => {
      const safe = this.#redact(line);
      this.#recent.push(safe.trimEnd());
      if (this.#recent.length > KEPT_LINES) this.#recent.shift();
      process.stderr.write(terminal ? readable(safe) : safe);
    };
    const log = this;
    const options = {
      level,
      base: null,
      ...(terminal ? {} : { timestamp: pino.stdTimeFunctions.isoTime }),
      hooks: {
        logMethod(this: Logger, args: Parameters<pino.LogFn>, method: pino.LogFn, at: number): void {
          const [first, ...rest] = args;
          const text = typeof first === "string" ? log.#pass(first.slice(0, MOST_CHARACTERS), at) : first;
          if (text !== undefined) Reflect.apply(method, this, [text, ...rest]);
        },
      },
    };
    this.logger = pino(options, { write });
  }

  /** Lines left out so far. */
  get suppressed(): number {
    return this.#suppressed;
  }

  /** The latest lines, as JSON, oldest first. */
  get recent(): readonly string[] {
    return this.#recent;
  }

  /** How secrets are hidden from here on. */
  hide(redact: (text: string) => string): void {
    this.#redact = redact;
  }

  /** What is to be written, or undefined. */
  #pass(message: string, level: number): string | undefined {
    const key = `${level} ${message.replace(/"[^"]*"|\d+/g, "#").slice(0, 120)}`;
    const now = performance.now();
    let kind = this.#kinds.get(key);
    if (kind === undefined || now - kind.sinceMs >= WINDOW_MS) {
      const left = kind?.left ?? 0;
      if (kind === undefined && this.#kinds.size >= MOST_KINDS) {
        const [oldest] = this.#kinds.keys();
        if (oldest !== undefined) this.#kinds.delete(oldest);
      }
      kind = { sinceMs: now, lines: 1, left: 0 };
      this.#kinds.set(key, kind);
      return left === 0 ? message : `${message} (and ${left} more like it before, left out)`;
    }
    if (kind.lines < MOST_LINES) {
      kind.lines += 1;
      return message;
    }
    kind.left += 1;
    this.#suppressed += 1;
    return undefined;
  }
}

const COLOURS: Readonly<Record<number, readonly [label: string, colour: number]>> = {
  10: ["trace", 90],
  20: ["debug", 90],
  30: ["info", 36],
  40: ["warn", 33],
  50: ["error", 31],
  60: ["fatal", 31],
};

/**
 * What a terminal would act on, and what turns the order of characters round; a message may quote a device, a broker or a plugin. What
 * follows a line end is set in, so that it is no line of its own.
 */
const CONTROLS = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

function readable(line: string): string {
  const { level, time, msg, ...rest } = parsed(line);
  const [label, colour] = COLOURS[level] ?? ["log", 0];
  const more = Object.keys(rest).length > 0 ? ` ${JSON.stringify(rest)}` : "";
  const clock = new Date(time).toTimeString().slice(0, 8);
  const text = `${msg ?? ""}${more}`.replaceAll(CONTROLS, "\ufffd").replaceAll("\n", "\n    ");
  return `\u001b[90m${clock}\u001b[0m \u001b[${colour}m${label.padEnd(5)}\u001b[0m ${text}\n`;
}

/** A line's fields. Hiding a secret that looks like a part of JSON may have broken it: then it is the message as it stands. */
function parsed(line: string): { level: number; time: number; msg?: string } {
  try {
    return JSON.parse(line) as { level: number; time: number; msg?: string };
  } catch {
    return { level: 0, time: Date.now(), msg: line.trimEnd() };
  }
}
