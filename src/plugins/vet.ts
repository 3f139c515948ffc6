/**
 * Vetting: a component goes into a jailed child with a time limit, generated files come back, and lie in the cache:
 *
 *     <cache>/<sha256>-<vetter>-<memory limit>/{component.js, component.core*.wasm, vetted.json}
 *
 * A cached component isn't vetted again. The agent never evaluates these files, nor compiles them: it checks names and
 * sizes and writes.
 */
import { randomBytes } from "node:crypto";
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, extname, join } from "node:path";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import { messageOf, WeirError } from "../core/errors.ts";
import { spawnJailed } from "./jail.ts";
import { findLauncher } from "./jail-launcher.ts";
import type { JailLayer } from "./jail-report.ts";
import { isRuntime } from "./runtime.ts";
import { MOST_FILE_BYTES, readAnswer, readVetted, type VettedFiles } from "./vetted.ts";

/** Changes when what vetting makes does, so that old cache entries are left behind: our own number and the transpiler's version. */
export const VETTER = "1-0.15.0";

const VET_TIMEOUT_MS = 15_000;
const VET_MEMORY_MIB = 768;
/** A child whose pipe has closed has so long to end by itself, so that its end can be told from ours, in milliseconds. */
const END_MS = 1_000;
const MOST_META = 64 * 1024;
/** Cache entries kept beside those in use. */
const SPARE_ENTRIES = 16;

const PACKAGE = "package.json";

/** A component that may be started. */
export interface Vetted extends VettedFiles {
  /** where its files lie */
  readonly dir: string;
  /** it was in the cache already */
  readonly cached: boolean;
}

/** How to vet. */
export interface VetOptions {
  readonly cacheDir: string;
  readonly memoryMiB: number;
  /** default 15 s */
  readonly timeoutMs?: number;
  /** tests only */
  readonly without?: readonly JailLayer[];
}

/**
 * Vets a component, or finds it in the cache: then it isn't even read.
 * @param hash SHA-256 of what `component` reads
 * @throws WeirError `plugin.refused` with the reason; `plugin.failed` when that may not be the component's doing, because vetting
 * took too long, the system killed it, or there is no jail: another try may end otherwise
 */
export async function vet(
  hash: string,
  component: () => Promise<Uint8Array>,
  options: VetOptions,
): Promise<Vetted> {
  findLauncher();
  const dir = join(options.cacheDir, `${hash}-${VETTER}-${options.memoryMiB}`);
  const known = await readCached(dir);
  if (known !== undefined) return { ...known, dir, cached: true };
  const { vetted, bytes } = await runChild(await component(), options);
  await store(dir, vetted, bytes);
  return { ...vetted, dir, cached: false };
}

/** Makes the cache's folder, for the jail to read. */
export async function openCache(cacheDir: string): Promise<void> {
  await mkdir(cacheDir, { recursive: true });
  await chmod(cacheDir, 0o755);
  // Here Node's search for the package of a component ends. The next one up is not the jail's to read, and that it can't is an error.
  const path = join(cacheDir, PACKAGE);
  await writeFile(path, '{"type":"module"}');
  await chmod(path, 0o644);
}

/** Removes the oldest entries that are not in use. */
export async function pruneCache(cacheDir: string, used: ReadonlySet<string>): Promise<void> {
  const entries = await Promise.all(
    (await readdir(cacheDir))
      .filter((name) => name !== PACKAGE && !isRuntime(name))
      .map(async (name) => {
        const path = join(cacheDir, name);
        return { path, time: (await stat(path)).mtimeMs };
      }),
  );
  const spare = entries.filter(({ path }) => !used.has(path)).sort((a, b) => b.time - a.time);
  await Promise.all(spare.slice(SPARE_ENTRIES).map(({ path }) => rm(path, { recursive: true, force: true })));
}

/** What lies in a cache folder; undefined unless it is whole. */
async function readCached(dir: string): Promise<VettedFiles | undefined> {
  try {
    const vetted = readVetted(JSON.parse(await readFile(join(dir, "vetted.json"), "utf8")));
    const sizes = await Promise.all(vetted.files.map(async ({ name }) => (await stat(join(dir, name))).size));
    return vetted.files.every(({ size }, i) => sizes[i] === size) ? vetted : undefined;
  } catch {
    return undefined;
  }
}

async function runChild(
  component: Uint8Array,
  options: VetOptions,
): Promise<{ vetted: VettedFiles; bytes: Buffer }> {
  const transpiler = dirname(
    dirname(fileURLToPath(import.meta.resolve("@bytecodealliance/jco-transpile/component"))),
  );
  const { child, pipes, output } = spawnJailed({
    script: join(import.meta.dirname, `vet-child${extname(import.meta.filename)}`),
    readPaths: [import.meta.dirname, transpiler],
    pipes: 1,
    memoryMiB: VET_MEMORY_MIB,
    allowWorker: false,
    ...(options.without === undefined ? {} : { without: options.without }),
  });
  const [pipe] = pipes;
  if (pipe === undefined) throw new WeirError("plugin.refused", "vetting: no pipe to the child");
  let late = false;
  const timeout = setTimeout(() => {
    late = true;
    pipe.destroy();
  }, options.timeoutMs ?? VET_TIMEOUT_MS);
  const ended = new Promise<string>((resolve) => {
    child.once("error", (thrown) => resolve(thrown.message));
    child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  try {
    pipe.cork();
    const meta = Buffer.from(JSON.stringify({ memoryMiB: options.memoryMiB }));
    const head = Buffer.alloc(8);
    head.writeUInt32LE(meta.byteLength, 0);
    head.writeUInt32LE(component.byteLength, 4);
    for (const part of [head, meta, component]) pipe.write(part);
    pipe.uncork();
    return await receive(pipe);
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    if (late) throw new WeirError("plugin.failed", "vetting: took too long");
    let ours = false;
    const killing = setTimeout(() => {
      ours = true;
      child.kill("SIGKILL");
    }, END_MS);
    const end = await ended;
    clearTimeout(killing);
    const said = output().trim().split("\n").at(-1) ?? "";
    // Whoever kills it for what it holds says so; without a word it was the kernel, for want of memory as a rule.
    if (end === "SIGKILL" && !ours && said === "")
      throw new WeirError("plugin.failed", "vetting: the system killed it, as it does when memory runs out");
    const why = said === "" ? `${messageOf(thrown)}, ${end}` : `${end}: ${said.slice(0, 300)}`;
    throw new WeirError("plugin.refused", `vetting: the child ended early (${why})`);
  } finally {
    clearTimeout(timeout);
    child.kill("SIGKILL");
    pipe.destroy();
    await ended;
  }
}

/** Reads the child's answer; every length is capped before anything is kept for it. */
async function receive(pipe: Duplex): Promise<{ vetted: VettedFiles; bytes: Buffer }> {
  const parts: Buffer[] = [];
  let have = 0;
  let wanted = 8;
  let metaBytes = -1;
  let vetted: VettedFiles | undefined;
  for await (const part of pipe) {
    if (!(part instanceof Uint8Array)) throw new Error("not bytes");
    parts.push(Buffer.from(part.buffer, part.byteOffset, part.byteLength));
    have += part.byteLength;
    if (have < wanted) continue;
    const all = Buffer.concat(parts.splice(0));
    parts.push(all);
    if (metaBytes < 0) {
      metaBytes = all.readUInt32LE(0);
      if (metaBytes > MOST_META) throw new Error("its answer is too long");
      wanted = 8 + metaBytes;
    }
    if (vetted === undefined && have >= wanted) {
      const answer = readAnswer(JSON.parse(all.toString("utf8", 8, wanted)));
      if (!answer.ok) throw new WeirError("plugin.refused", answer.reason);
      const { ok: _, ...rest } = answer;
      vetted = rest;
      const total = vetted.files.reduce((sum, { size }) => sum + size, 0);
      if (total > MOST_FILE_BYTES)
        throw new WeirError("plugin.refused", `turns into ${total} bytes, the limit is ${MOST_FILE_BYTES}`);
      wanted += total;
    }
    if (vetted !== undefined && have === wanted) return { vetted, bytes: all.subarray(8 + metaBytes) };
    if (have > wanted) throw new Error("it says more than it announced");
  }
  throw new Error("no whole answer");
}

/** Writes a cache entry so that it is there whole or not at all. */
async function store(dir: string, vetted: VettedFiles, bytes: Buffer): Promise<void> {
  const temporary = `${dir}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    await mkdir(temporary);
    await chmod(temporary, 0o755);
    let at = 0;
    for (const { name, size } of vetted.files) {
      await write(join(temporary, name), bytes.subarray(at, at + size));
      at += size;
    }
    await write(join(temporary, "vetted.json"), Buffer.from(JSON.stringify(vetted)));
    await rm(dir, { recursive: true, force: true });
    await rename(temporary, dir);
  } catch (thrown) {
    await rm(temporary, { recursive: true, force: true });
    // The same component under two names: the other one was faster.
    if ((await readCached(dir)) === undefined) throw thrown;
  }
}

/** Writes and syncs: after a power cut a name must not stand for half its bytes. Readable by the jail's user, whatever the umask. */
async function write(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, "wx", 0o644);
  try {
    await handle.writeFile(bytes);
    await handle.chmod(0o644);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
