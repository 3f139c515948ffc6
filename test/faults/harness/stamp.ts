/** What a producer writes into every message, so that whoever receives it can tell it from any other. */
import { createHash } from "node:crypto";

/** A stamp of (device, sequence): what arrives with another one was changed on the way, or never sent. */
export const stampOf = (device: string, n: number): string =>
  createHash("sha256").update(`weir faults/${device}/${n}`).digest("hex").slice(0, 12);
