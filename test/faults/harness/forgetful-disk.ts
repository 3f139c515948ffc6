/**
 * A disk that forgets what was not flushed: ext4 on a loop device over a file that nbdfuse shows and nbdkit serves, with a
 * write-back cache between it and the image. Killing nbdkit is the power cut: the image has what was flushed, and no more.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "../../helpers/until.ts";

const run = (...command: readonly string[]): string => {
  const [program = "", ...args] = command;
  const done = spawnSync(program, args, { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`${command.join(" ")}: ${done.stderr}`);
  return done.stdout.trim();
};

/** One disk, on which a data folder lives. */
export class ForgetfulDisk {
  readonly #dir = mkdtempSync(join(tmpdir(), "weir-disk-"));
  readonly #image = join(this.#dir, "image");
  readonly #shown = join(this.#dir, "shown");
  readonly #broken = join(this.#dir, "broken");
  readonly #journal: boolean;
  #server: ChildProcess | undefined;
  #fuse: ChildProcess | undefined;
  #loop: string | undefined;
  #mounted: string | undefined;

  /** An empty file system of 256 MiB. Without a journal it goes on after a write that failed. */
  constructor({ journal = true }: { readonly journal?: boolean } = {}) {
    this.#journal = journal;
    writeFileSync(this.#image, "");
    truncateSync(this.#image, 256 * 2 ** 20);
    run("mkfs.ext4", "-q", "-F", ...(journal ? [] : ["-O", "^has_journal"]), this.#image);
    mkdirSync(this.#shown);
  }

  /** From now on every write fails, or none does any more. */
  fail(failing: boolean): void {
    if (failing) writeFileSync(this.#broken, "");
    else rmSync(this.#broken, { force: true });
  }

  /** Mounts it at a folder, with the cache that forgets. */
  async mount(at: string): Promise<void> {
    const socket = join(this.#dir, "socket");
    rmSync(socket, { force: true });
    const filters = ["--filter=error", "--filter=cache", "file", this.#image];
    const failing = ["pwrite", "zero", "trim"].flatMap((what) => [
      `error-${what}-rate=100%`,
      `error-${what}-file=${this.#broken}`,
    ]);
    this.#server = spawn("nbdkit", ["-f", "-U", socket, ...filters, "cache=writeback", ...failing], {
      stdio: "ignore",
    });
    await until("nbdkit", () => statSync(socket, { throwIfNoEntry: false }) !== undefined, 30_000);
    const file = join(this.#shown, "disk");
    this.#fuse = spawn("nbdfuse", [file, `nbd+unix:///?socket=${socket}`], { stdio: "ignore" });
    await until("nbdfuse", () => (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > 0, 30_000);
    this.#loop = run("losetup", "--find", "--show", file);
    mkdirSync(at, { recursive: true });
    // Without a journal nothing else makes it whole after a cut; 1 is that it was mended.
    if (!this.#journal) spawnSync("e2fsck", ["-fy", this.#loop]);
    // The file system's own commits are not to hide that nobody asked for one.
    run("mount", "-o", this.#journal ? "commit=300" : "errors=continue", this.#loop, at);
    this.#mounted = at;
  }

  /** Writes out all that is dirty: names, inodes and bitmaps, which no journal keeps whole. What a write failed for is not dirty any more. */
  sync(): void {
    // Its status tells of writes that failed before.
    if (this.#mounted !== undefined) spawnSync("sync", ["-f", this.#mounted]);
  }

  /** The power goes. */
  async cut(): Promise<void> {
    const ended = [this.#server, this.#fuse].map((child) =>
      child === undefined || child.exitCode !== null ? undefined : once(child, "exit"),
    );
    this.#server?.kill("SIGKILL");
    await ended[0];
    if (this.#mounted !== undefined) spawnSync("umount", ["-l", this.#mounted]);
    this.#mounted = undefined;
    if (this.#loop !== undefined) spawnSync("losetup", ["-d", this.#loop]);
    this.#loop = undefined;
    spawnSync("umount", ["-l", this.#shown]);
    this.#fuse?.kill("SIGKILL");
    await ended[1];
    this.#server = undefined;
    this.#fuse = undefined;
  }

  async remove(): Promise<void> {
    await this.cut();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** What this kernel lacks for it, or undefined. */
export async function lacksForDisk(): Promise<string | undefined> {
  const tool = ["nbdkit", "nbdfuse", "losetup", "mkfs.ext4"].find(
    (name) => spawnSync("sh", ["-c", `command -v ${name}`]).status !== 0,
  );
  if (tool !== undefined) return `${tool} is not installed`;
  let disk: ForgetfulDisk | undefined;
  const at = mkdtempSync(join(tmpdir(), "weir-try-"));
  try {
    disk = new ForgetfulDisk();
    await disk.mount(at);
    return undefined;
  } catch (thrown) {
    return String(thrown);
  } finally {
    await disk?.remove();
    rmSync(at, { recursive: true, force: true });
  }
}
