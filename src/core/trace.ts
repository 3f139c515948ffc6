/**
 * W3C Trace Context, as far as it goes through: the `traceparent` of devices' messages, collected for what they become part of. A
 * batch has many origins and can't have them all as its parent: as in OpenTelemetry's messaging conventions they are its links.
 * https://www.w3.org/TR/trace-context/ and its binding to MQTT: user property `traceparent`.
 */

/** Contexts that are kept of a chunk, and sent with a batch. */
export const MOST_CONTEXTS = 8;

const FORM = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** A `traceparent` as version 00 has it, or undefined when it is none (2.2; later versions: 4.3.1). Untrusted. */
export function readTraceparent(text: string): string | undefined {
  const [, trace, parent, flags, more] = FORM.exec(text) ?? [];
  if (trace === undefined || (more !== undefined && text.startsWith("00"))) return undefined;
  return `00-${trace}-${parent}-${flags}`;
}

/** The trace that a context is in: 32 hex digits. */
const traceIn = (context: string): string => context.slice(3, 35);

/** Whether a context's trace is recorded: the lowest bit of its flags. */
const isSampled = (context: string): boolean => (Number.parseInt(context.slice(-2), 16) & 1) === 1;

/** The trace contexts that go with samples. */
export interface Traces {
  /** as `traceparent`, no two alike, in the order of their arrival, at most {@link MOST_CONTEXTS} */
  readonly contexts: readonly string[];
  /** what all of their messages were in; undefined when that were several traces, or a message came without one */
  readonly trace: string | undefined;
}

/** Collects the contexts of messages. */
export class TraceCollector {
  readonly #contexts = new Set<string>();
  #messages = 0;
  #trace: string | undefined;
  #several = false;

  /** Notes one of a message. */
  add(context: string): void {
    const trace = traceIn(context);
    this.#messages += 1;
    this.#several ||= this.#trace !== undefined && this.#trace !== trace;
    this.#trace ??= trace;
    if (this.#contexts.size < MOST_CONTEXTS) this.#contexts.add(context);
  }

  /** What was noted of so many messages; undefined when nothing was. Begins again. */
  take(messages: number): Traces | undefined {
    if (this.#messages === 0) return undefined;
    const one = !this.#several && this.#messages === messages;
    const taken = { contexts: [...this.#contexts], trace: one ? this.#trace : undefined };
    this.#contexts.clear();
    this.#messages = 0;
    this.#trace = undefined;
    this.#several = false;
    return taken;
  }
}

/** The contexts of several parts together. */
export function joinTraces(parts: readonly (Traces | undefined)[]): Traces | undefined {
  const contexts = new Set(parts.flatMap((part) => part?.contexts ?? []));
  if (contexts.size === 0) return undefined;
  const trace = parts[0]?.trace;
  return {
    contexts: [...contexts].slice(0, MOST_CONTEXTS),
    trace: parts.every((part) => part?.trace === trace) ? trace : undefined,
  };
}

/** The context of what they became part of, by its own 32 and 16 hex digits: in their trace when that is one, else in its own. */
export function contextOf(trace: string, span: string, from: Traces | undefined): string {
  if (from?.trace === undefined) return `00-${trace}-${span}-01`;
  return `00-${from.trace}-${span}-${from.contexts.some(isSampled) ? "01" : "00"}`;
}
