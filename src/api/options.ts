/** The `http` section of weir.yaml. */
import { z } from "zod";

/** The section's schema; an empty object is a valid one. */
export const httpSchema = z.strictObject({
  enabled: z.boolean().default(true).describe("serve /metrics, /healthz, /readyz and the read-only /api/v1"),
  host: z
    .string()
    .min(1)
    .max(255)
    .default("127.0.0.1")
    .describe(
      "the address to listen on; it has no authentication: keep it on loopback, or behind a proxy that has",
    ),
  port: z.number().int().min(0).max(65_535).default(7780).describe("0: any free one"),
});

/** The section with every default filled in. */
export type HttpOptions = z.infer<typeof httpSchema>;
