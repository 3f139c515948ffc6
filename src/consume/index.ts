/** The package `weir-consume`: what consumers of Weir's topics need (docs/consume.md). It imports nothing but `core` and Node. */
export { type Batch, readBatch, type SampleObject } from "./batch.ts";
export { Deduper, type DeduperLimits, type Hole, type Span, type Verdict } from "./dedupe.ts";
export { type GapNotice, readGap } from "./gap.ts";
