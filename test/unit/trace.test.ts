import { describe, expect, it } from "vitest";
import {
  contextOf,
  joinTraces,
  MOST_CONTEXTS,
  readTraceparent,
  TraceCollector,
} from "../../src/core/trace.ts";

const A = "0af7651916cd43dd8448eb211c80319c";
const B = "4bf92f3577b34da6a3ce929d0e0e4736";
const of = (trace: string, n: number, flags = "01"): string =>
  `00-${trace}-${n.toString(16).padStart(16, "0")}-${flags}`;

describe("a traceparent", () => {
  it.each([
    ["of version 00", of(A, 1), of(A, 1)],
    ["of a later version, which may have more fields", `cc-${A}-00000000000000ab-09-what`, of(A, 0xab, "09")],
    ["of version 00 with more fields", `${of(A, 1)}-what`, undefined],
    ["of version ff", of(A, 1).replace("00", "ff"), undefined],
    ["of no trace", of("0".repeat(32), 1), undefined],
    ["of no parent", of(A, 0), undefined],
    ["in capitals", of(A, 0xab).toUpperCase(), undefined],
    ["that is none", "00-1", undefined],
    ["that is endless", `${of(A, 1)}${"0".repeat(60_000)}`, undefined],
  ])("%s", (_, text, expected) => expect(readTraceparent(text)).toBe(expected));
});

describe("the contexts of a chunk's messages", () => {
  const collected = (messages: number, ...contexts: readonly string[]) => {
    const collector = new TraceCollector();
    for (const context of contexts) collector.add(context);
    const taken = collector.take(messages);
    expect(collector.take(1)).toBeUndefined();
    return taken;
  };

  it("name one trace when every message was in it", () => {
    expect(collected(0)).toBeUndefined();
    expect(collected(2, of(A, 1), of(A, 2))).toEqual({ contexts: [of(A, 1), of(A, 2)], trace: A });
    expect(collected(2, of(A, 1), of(A, 1))).toEqual({ contexts: [of(A, 1)], trace: A });
    expect(collected(3, of(A, 1), of(A, 2))?.trace).toBeUndefined();
    expect(collected(2, of(A, 1), of(B, 2))).toEqual({ contexts: [of(A, 1), of(B, 2)], trace: undefined });
  });

  it("are bounded, and what is left out still counts for the trace", () => {
    const many = Array.from({ length: 100 }, (_, n) => of(A, n + 1));
    expect(collected(100, ...many)).toEqual({ contexts: many.slice(0, MOST_CONTEXTS), trace: A });
    expect(collected(101, ...many, of(B, 1))?.trace).toBeUndefined();
  });

  it("of several chunks are one trace's only when every chunk has it", () => {
    const a = { contexts: [of(A, 1)], trace: A };
    expect(joinTraces([undefined])).toBeUndefined();
    expect(joinTraces([a, { contexts: [of(A, 2)], trace: A }])?.trace).toBe(A);
    expect(joinTraces([undefined, a])).toEqual({ contexts: [of(A, 1)], trace: undefined });
    expect(joinTraces([a, undefined])).toEqual({ contexts: [of(A, 1)], trace: undefined });
    expect(joinTraces([a, { contexts: [of(B, 2)], trace: B }])?.trace).toBeUndefined();
  });

  it("give the batch their trace, sampled when one of them is, else it has its own", () => {
    const span = "00000000000000ff";
    expect(contextOf(B, span, undefined)).toBe(`00-${B}-${span}-01`);
    expect(contextOf(B, span, { contexts: [of(A, 1)], trace: undefined })).toBe(`00-${B}-${span}-01`);
    expect(contextOf(B, span, { contexts: [of(A, 1, "00")], trace: A })).toBe(`00-${A}-${span}-00`);
    expect(contextOf(B, span, { contexts: [of(A, 1, "00"), of(A, 2)], trace: A })).toBe(`00-${A}-${span}-01`);
  });
});
