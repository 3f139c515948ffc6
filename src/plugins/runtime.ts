/**
 * The host's own code, ready to run. From a clone that is TypeScript, and every thread that loads some holds Node's type
 * stripper, about 12 MB. So the agent strips the few files once and keeps them beside the vetted components:
 *
 *     <cache>/runtime-<hash of the sources>/{files.json, package.json, plugins/*.js, core/*.js}
 *
 * A package that carries JavaScript is run as it is.
 */
import { createHash } from "node:crypto";
import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { dirname, extname, join, relative, resolve } from "node:path";

/** What the host is started with. */
export interface HostRuntime {
  /** its script, an absolute path */
  readonly script: string;
  /** folders with its code */
  readonly folders: readonly string[];
}

const IMPORT = /(?<=\bfrom ")(\.{1,2}\/[^"]+)\.ts(?=")/g;
const PREFIX = "runtime-";

/** The code as it lies beside this file. */
export function sourceRuntime(): HostRuntime {
  const here = import.meta.dirname;
  const script = join(here, `host-child${extname(import.meta.filename)}`);
  return { script, folders: [here, join(here, "../core")] };
}

/** The code as JavaScript, made in the cache folder where it isn't there yet. */
export async function hostRuntime(cacheDir: string): Promise<HostRuntime> {
  if (extname(import.meta.filename) !== ".ts") return sourceRuntime();
  const root = resolve(import.meta.dirname, "..");
  const sources = await closure(
    ["host-child.ts", "host-worker.ts"].map((name) => join(import.meta.dirname, name)),
  );
  const hash = createHash("sha256").update(process.version);
  for (const [file, text] of sources) hash.update(`\0${relative(root, file)}\0${text}`);
  const dir = join(cacheDir, `${PREFIX}${hash.digest("hex").slice(0, 32)}`);
  const runtime = { script: join(dir, "plugins", "host-child.js"), folders: [dir] };
  if (await isWhole(dir)) return runtime;

  const temporary = `${dir}.new`;
  await rm(temporary, { recursive: true, force: true });
  const files: Record<string, string> = {};
  const put = async (name: string, text: string): Promise<void> => {
    await write(temporary, name, text);
    files[name] = sha256(text);
  };
  await put("package.json", '{"type":"module"}');
  for (const [file, text] of sources) {
    await put(
      relative(root, file).replace(/\.ts$/, ".js"),
      stripTypeScriptTypes(text).replace(IMPORT, "$1.js"),
    );
  }
  await write(temporary, "files.json", JSON.stringify(files));
  await rm(dir, { recursive: true, force: true });
  for (const name of await readdir(cacheDir)) {
    if (name.startsWith(PREFIX) && !temporary.endsWith(name))
      await rm(join(cacheDir, name), { recursive: true, force: true });
  }
  await rename(temporary, dir);
  return runtime;
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Whether every file is there as it was written: a power cut may have left some of them empty. */
async function isWhole(dir: string): Promise<boolean> {
  try {
    const files: Readonly<Record<string, string>> = JSON.parse(
      await readFile(join(dir, "files.json"), "utf8"),
    );
    for (const [name, hash] of Object.entries(files)) {
      if (sha256(await readFile(join(dir, name), "utf8")) !== hash) return false;
    }
    return Object.keys(files).length > 0;
  } catch {
    return false;
  }
}

/** Whether an entry of the cache folder is such a runtime. */
export const isRuntime = (entry: string): boolean => entry.startsWith(PREFIX);

/** The files and all that they import of ours, by path, in a fixed order. */
async function closure(files: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const left = [...files];
  for (let file = left.shift(); file !== undefined; file = left.shift()) {
    if (found.has(file)) continue;
    const text = await readFile(file, "utf8");
    found.set(file, text);
    for (const [path] of text.matchAll(IMPORT)) left.push(join(dirname(file), path));
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Written for the jail's user to read. */
async function write(dir: string, name: string, text: string): Promise<void> {
  const path = join(dir, name);
  for (const folder of [dir, dirname(path)]) {
    await mkdir(folder, { recursive: true });
    await chmod(folder, 0o755);
  }
  await writeFile(path, text);
  await chmod(path, 0o644);
}
