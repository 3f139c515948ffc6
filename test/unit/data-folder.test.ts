import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { holdDataFolder } from "../../src/outbox/data-folder.ts";

test("a data folder is made with those above it, which list nothing to others; where none can be made that is said", () => {
  const dir = mkdtempSync(join(tmpdir(), "weir-folder-"));
  try {
    writeFileSync(join(dir, "file"), "");
    symlinkSync(join(dir, "gone"), join(dir, "dangling"));
    for (const where of ["/proc/weir", join(dir, "file"), join(dir, "file", "below"), join(dir, "dangling")])
      expect(() => holdDataFolder(where), where).toThrow(expect.objectContaining({ code: "data.unusable" }));
    const held = holdDataFolder(join(dir, "a", "b"));
    for (const made of ["a", "a/b"]) expect(statSync(join(dir, made)).mode & 0o777, made).toBe(0o711);
    held.release();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
