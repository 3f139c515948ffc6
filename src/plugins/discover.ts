/**
 * What lies in the plugins folder: folders with a plugin.yaml, and bare `.wasm` files. Everything there is untrusted:
 * links and odd names are refused with the reason, and no more than the limit is read of any file.
 */
import { lstat, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, messageOf } from "../core/errors.ts";
import { hashOf, readBounded, refusal } from "./component-file.ts";
import { bareManifest, type Manifest, manifestSchema, parseManifest, pluginName } from "./manifest.ts";

/** Of a plugin.yaml: four times as much takes 100 MiB to parse. */
const MANIFEST_BYTES = 64 * 1024;
/** Entries looked at in the folder. */
const MOST_ENTRIES = 1_000;

/** A plugin as it lies in the folder. */
export interface Candidate {
  readonly name: string;
  readonly manifest: Manifest;
  /** SHA-256 of the component, hexadecimal: its identity */
  readonly hash: string;
  /** where the component lies; it is read when it is needed */
  readonly path: string;
}

/** A plugin as it is remembered. */
export type KnownPlugin = Omit<Candidate, "path">;

/** What was looked at: plugins, and what was refused; no two have one name. */
export interface Discovered {
  /** false: the folder can't be read, and nothing is known of what lies there */
  readonly isKnown: boolean;
  readonly candidates: readonly Candidate[];
  readonly refused: readonly { readonly name: string; readonly reason: string }[];
}

/** Looks into the folder; one that isn't there holds no plugins. Of a folder and a file with one name, the folder is the plugin. */
export async function discover(dir: string): Promise<Discovered> {
  let entries: string[];
  try {
    entries = await readdir(dir);
  } catch (thrown) {
    if (errnoOf(thrown) === "ENOENT") return { isKnown: true, candidates: [], refused: [] };
    return { isKnown: false, candidates: [], refused: [{ name: dir, reason: messageOf(thrown) }] };
  }
  const candidates = new Map<string, Candidate>();
  const refused = new Map<string, string>();
  if (entries.length > MOST_ENTRIES)
    refused.set(dir, `${entries.length} entries: only the first ${MOST_ENTRIES} are looked at`);
  // A folder sorts before the file of its name.
  for (const entry of entries.sort().slice(0, MOST_ENTRIES)) {
    if (entry.startsWith(".")) continue;
    const name = printable(entry.replace(/\.wasm$/, ""));
    const isSecond = candidates.has(name) || refused.has(name);
    try {
      const candidate = await readEntry(dir, entry);
      if (candidate === undefined) continue;
      if (isSecond) throw refusal("the folder of this name is the plugin");
      candidates.set(candidate.name, candidate);
    } catch (thrown) {
      refused.set(isSecond ? printable(entry) : name, messageOf(thrown));
    }
  }
  return {
    isKnown: true,
    candidates: [...candidates.values()],
    refused: [...refused].map(([name, reason]) => ({ name, reason })),
  };
}

/** A version as it lies in a folder of the store (versions.ts). */
export async function readKept(folder: string): Promise<Candidate> {
  const manifest = manifestSchema.parse(JSON.parse(await readFile(join(folder, "manifest.json"), "utf8")));
  return withComponent(manifest, join(folder, "component.wasm"));
}

/** A file's name for a person to read: one line, not too long. */
const printable = (name: string): string => JSON.stringify(name.slice(0, 80)).slice(1, -1);

/**
 * The plugin of one entry of a folder; undefined for what isn't meant as one, such as a README.
 * @throws WeirError `plugin.refused` with the reason
 */
export async function readEntry(dir: string, entry: string): Promise<Candidate | undefined> {
  if (entry.includes("\uFFFD")) throw refusal("its name is not UTF-8");
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

/** A plugin by its manifest and the file of its component, which is looked through once. */
async function withComponent(manifest: Manifest, path: string): Promise<Candidate> {
  const hash = await hashOf(path).catch((thrown: unknown) => {
    if (errnoOf(thrown) === "ENOENT") throw refusal(`${manifest.component} is missing`);
    throw thrown;
  });
  return { name: manifest.name, manifest, hash, path };
}
