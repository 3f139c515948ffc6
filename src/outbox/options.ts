/** The `outbox` section of weir.yaml. */
import { z } from "zod";
import { parseSize } from "../core/units.ts";

/** Least `maxBytes`: 4 MiB. */
const LEAST_BYTES = 4 * 2 ** 20;

/** The section's schema; an empty object is a valid one. */
export const outboxSchema = z.strictObject({
  sync: z
    .enum(["normal", "full"])
    .default("normal")
    .describe("`normal`: what is acknowledged survives a killed agent; `full`: also a power cut"),
  maxBytes: z
    .union([z.number(), z.string().transform(parseSize)])
    .pipe(
      z
        .number("expected a size such as 1GiB")
        .int()
        .min(LEAST_BYTES, "expected at least 4MiB")
        .max(2 ** 40, "expected at most 1024GiB"),
    )
    .prefault("1GiB")
    .describe("size of the database; before it is reached the oldest batches are dropped and announced"),
});
