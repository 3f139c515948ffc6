/**
 * What lies in the plugins folder: folders with a plugin.yaml, and bare `.wasm` files. Everything there is untrusted:
 * links and odd names are refused with the reason, and no more than the limit is read of any file.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { lstat, open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { bareManifest, type Manifest, manifestSchema, parseManifest, pluginName } from "./manifest.ts";

const MANIFEST_BYTES = 256 * 1024;
/** Largest component: a JavaScript engine with its libraries takes 2 to 13 MB. */
export const COMPONENT_BYTES: number = 32 * 1024 * 1024;
/** Entries looked at in the folder. */
const MOST_ENTRIES = 1_000;

/** A plugin as it lies in the folder. */
export interface Candidate {
  readonly name: string;
  readonly manifest: Manifest;
  readonly component: Uint8Array<ArrayBuffer>;
  /** SHA-256 of the component, hexadecimal: its identity */
  readonly hash: string;
}

/** A plugin without its bytes, which are megabytes and lie in the store. */
export type KnownPlugin = Omit<Candidate, "component">;

/** What was looked at: plugins, and what was refused, by name. */
export interface Discovered {
  readonly candidates: readonly Candidate[];
  readonly refused: readonly { readonly name: string; readonly reason: string }[];
}

/** Looks into the folder; one that isn't there holds no plugins. */
export async function discover(dir: string): Promise<Discovered> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (thrown) {
    if (errnoOf(thrown) === "ENOENT") return { candidates: [], refused: [] };
    return { candidates: [], refused: [{ name: dir, reason: messageOf(thrown) }] };
  }
  const candidates = new Map<string, Candidate>();
  const refused: { name: string; reason: string }[] = [];
  if (names.length > MOST_ENTRIES) {
    refused.push({
      name: dir,
      reason: `${names.length} entries: only the first ${MOST_ENTRIES} are looked at`,
    });
  }
  for (const name of names.sort().slice(0, MOST_ENTRIES)) {
    if (name.startsWith(".")) continue;
    try {
      const candidate = await readEntry(dir, name);
      if (candidate === undefined) continue;
      if (candidates.has(candidate.name)) throw refusal(`there is a folder and a file for ${candidate.name}`);
      candidates.set(candidate.name, candidate);
    } catch (thrown) {
      refused.push({ name: printable(name.replace(/\.wasm$/, "")), reason: messageOf(thrown) });
    }
  }
  return { candidates: [...candidates.values()], refused };
}

/** A version as it lies in a folder of the store (versions.ts). */
export async function readKept(folder: string): Promise<Candidate> {
  const manifest = manifestSchema.parse(JSON.parse(await readFile(join(folder, "manifest.json"), "utf8")));
  const component = new Uint8Array(await readFile(join(folder, "component.wasm")));
  const hash = createHash("sha256").update(component).digest("hex");
  return { name: manifest.name, manifest, component, hash };
}

const refusal = (reason: string): WeirError => new WeirError("plugin.refused", reason);

/** A file's name for a person to read: one line, not too long. */
const printable = (name: string): string => JSON.stringify(name.slice(0, 80)).slice(1, -1);

/** The plugin of one entry; undefined for what isn't meant as one, such as a README. */
async function readEntry(dir: string, entry: string): Promise<Candidate | undefined> {
  const path = join(dir, entry);
  const stat = await lstat(path);
  if (stat.isSymbolicLink()) throw refusal("is a link");
  if (stat.isDirectory()) {
    const text = await readBounded(join(path, "plugin.yaml"), MANIFEST_BYTES).catch((thrown: unknown) => {
      if (errnoOf(thrown) === "ENOENT") throw refusal("has no plugin.yaml");
      throw thrown;
    });
    checkName(entry);
    const manifest = parseManifest(new TextDecoder().decode(text));
    if (manifest.name !== entry) throw refusal(`plugin.yaml calls it ${manifest.name}, its folder ${entry}`);
    return withComponent(manifest, join(path, manifest.component));
  }
  if (!entry.endsWith(".wasm")) return undefined;
  const name = entry.slice(0, -5);
  checkName(name);
  return withComponent(bareManifest(name), path);
}

function checkName(name: string): void {
  const result = pluginName.safeParse(name);
  if (!result.success) throw refusal(`its name: ${result.error.issues[0]?.message ?? "not valid"}`);
}

async function withComponent(manifest: Manifest, path: string): Promise<Candidate> {
  const component = await readBounded(path, COMPONENT_BYTES).catch((thrown: unknown) => {
    if (errnoOf(thrown) === "ENOENT") throw refusal(`${manifest.component} is missing`);
    throw thrown;
  });
  const hash = createHash("sha256").update(component).digest("hex");
  return { name: manifest.name, manifest, component, hash };
}

/** A regular file's bytes. Never follows a link, never waits on a FIFO. */
async function readBounded(path: string, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (thrown: unknown) => {
      if (errnoOf(thrown) === "ELOOP") throw refusal(`${path} is a link`);
      throw thrown;
    },
  );
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw refusal(`${path} is not a regular file`);
    if (stat.size > most) throw refusal(`${path} has ${stat.size} bytes, the limit is ${most}`);
    const bytes = new Uint8Array(stat.size);
    let at = 0;
    while (at < bytes.byteLength) {
      const { bytesRead } = await handle.read(bytes, at, bytes.byteLength - at, at);
      if (bytesRead === 0) throw refusal(`${path} got shorter while it was read`);
      at += bytesRead;
    }
    return bytes;
  } finally {
    await handle.close();
  }
}
