/** `bin/weir`, which everybody starts: which Node it takes. */
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

// Other shells say by themselves what is wrong, or leave before a script can.
const shell = "/bin/dash";

test.skipIf(!existsSync(shell))(
  `a Node that came along for another C library is said to be one${existsSync(shell) ? "" : ` (skipped: no ${shell})`}`,
  () => {
    const root = mkdtempSync(join(tmpdir(), "weir-bin-"));
    try {
      const node = join(root, `node_modules/node-linux-${process.arch}/bin/node`);
      const weir = join(root, "bin/weir");
      for (const file of [node, weir]) mkdirSync(dirname(file), { recursive: true });
      copyFileSync("bin/weir", weir);
      // The loader that it wants is not there, as glibc's is not on musl.
      writeFileSync(node, "#!/nowhere/ld-linux.so\n");
      chmodSync(node, 0o755);
      const { status, stderr } = spawnSync(shell, [weir, "--version"], { encoding: "utf8" });
      expect(status).toBe(127);
      expect(stderr).toContain(
        `weir: ${node} can not be run here. On musl (Alpine), install Weir with --omit=optional`,
      );
    } finally {
      rmSync(root, { recursive: true, force: true });
    }
  },
);
