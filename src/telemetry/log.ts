/** The agent's log: JSON lines on standard error, or readable ones on a terminal. */
import { type Logger, pino } from "pino";

export type { Logger } from "pino";

/** How the log is written. */
export interface LogOptions {
  /** the least level that is written */
  readonly level: string;
  /** whether a person reads it */
  readonly terminal: boolean;
}

/** Levels by rule: error = data lost or a person is needed; warn = something is wrong and Weir deals with it; info = life cycle. */
export function createLogger({ level, terminal }: LogOptions): Logger {
  if (!terminal) return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, process.stderr);
  return pino({ level, base: null }, { write: (line) => void process.stderr.write(readable(line)) });
}

const COLOURS: Readonly<Record<number, readonly [label: string, colour: number]>> = {
  10: ["trace", 90],
  20: ["debug", 90],
  30: ["info", 36],
  40: ["warn", 33],
  50: ["error", 31],
  60: ["fatal", 31],
};

function readable(line: string): string {
  const { level, time, msg, ...rest } = JSON.parse(line) as { level: number; time: number; msg?: string };
  const [label, colour] = COLOURS[level] ?? ["log", 0];
  const more = Object.keys(rest).length > 0 ? ` ${JSON.stringify(rest)}` : "";
  const clock = new Date(time).toTimeString().slice(0, 8);
  return `\u001b[90m${clock}\u001b[0m \u001b[${colour}m${label.padEnd(5)}\u001b[0m ${msg ?? ""}${more}\n`;
}
