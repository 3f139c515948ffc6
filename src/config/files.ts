/**
 * The files of a configuration: `weir.yaml`, then `conf.d/*.yaml` beside it in the order of their names. Later ones win:
 * mappings are merged key by key, lists and plain values are replaced.
 */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Document, isCollection, isNode, LineCounter, parseDocument } from "yaml";
import { errnoOf, messageOf } from "../core/errors.ts";

/** Bytes of a configuration file at most. */
const MOST_BYTES = 1024 * 1024;
/** Files in conf.d at most. */
const MOST_FILES = 64;

interface Parsed {
  readonly path: string;
  readonly document: Document.Parsed;
  readonly lines: LineCounter;
}

/** What the files say, merged and not yet checked. */
export interface ConfigFiles {
  /** the main file, absolute, or undefined when there is none */
  readonly file: string | undefined;
  /** every file that was read, absolute, in order */
  readonly files: readonly string[];
  /** the main file is there and has no byte */
  readonly empty: boolean;
  readonly raw: unknown;
  /** what can't be read or parsed, with file and line */
  readonly problems: readonly string[];
  /** `file:line` of a key, of the last file that has it; of its parent where no file has it */
  placeOf(keys: readonly PropertyKey[]): string;
}

/** Reads the main file and its conf.d. Never throws: what is wrong is in `problems`. */
export function readConfigFiles(file: string | undefined): ConfigFiles {
  const problems: string[] = [];
  const parsed: Parsed[] = [];
  const paths = file === undefined ? [] : [file, ...confD(file, problems)];
  let empty = false;
  for (const path of paths) {
    const text = readText(path, problems);
    if (text === undefined) continue;
    if (path === file) empty = text.length === 0;
    const lines = new LineCounter();
    const document = parseDocument(text, { lineCounter: lines });
    for (const error of document.errors) {
      const line = lines.linePos(error.pos[0]).line;
      const [message = ""] = error.message.split("\n", 1);
      problems.push(`${path}:${line}: ${message.replace(/ at line \d+, column \d+:$/, "")}`);
    }
    parsed.push({ path, document, lines });
  }
  let raw: unknown = {};
  for (const { document, path } of parsed) {
    try {
      raw = merge(raw, document.toJS({ maxAliasCount: 100 }) ?? {});
    } catch (thrown) {
      problems.push(`${path}: ${messageOf(thrown)}`);
    }
  }
  return {
    file,
    files: paths,
    empty,
    raw: withoutEmptySections(raw),
    problems,
    placeOf: (keys) => placeOf(parsed, keys) ?? file ?? "the configuration",
  };
}

function confD(file: string, problems: string[]): string[] {
  const folder = join(dirname(file), "conf.d");
  try {
    const names = readdirSync(folder).filter((name) => /^[^.].*\.ya?ml$/.test(name));
    if (names.length > MOST_FILES) problems.push(`${folder}: over ${MOST_FILES} files`);
    return names
      .sort()
      .slice(0, MOST_FILES)
      .map((name) => join(folder, name));
  } catch (thrown) {
    if (errnoOf(thrown) !== "ENOENT" && errnoOf(thrown) !== "ENOTDIR")
      problems.push(`${folder}: ${messageOf(thrown)}`);
    return [];
  }
}

function readText(path: string, problems: string[]): string | undefined {
  try {
    const text = readFileSync(path, "utf8");
    if (text.length <= MOST_BYTES) return text;
    problems.push(`${path}: over ${MOST_BYTES} bytes`);
  } catch (thrown) {
    problems.push(`${path}: ${errnoOf(thrown) === "ENOENT" ? "no such file" : messageOf(thrown)}`);
  }
  return undefined;
}

const isMapping = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function merge(before: unknown, after: unknown): unknown {
  if (!isMapping(before) || !isMapping(after)) return after;
  const merged = new Map(Object.entries(before));
  for (const [key, value] of Object.entries(after)) merged.set(key, merge(merged.get(key), value));
  return Object.fromEntries(merged);
}

/** A section whose every key is commented out is one that says nothing. */
function withoutEmptySections(raw: unknown): unknown {
  if (!isMapping(raw)) return raw;
  return Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null));
}

function placeOf(parsed: readonly Parsed[], keys: readonly PropertyKey[]): string | undefined {
  for (let depth = keys.length; depth > 0; depth--) {
    for (const { path, document, lines } of parsed.toReversed()) {
      const { contents } = document;
      const node = isCollection(contents) ? document.getIn(keys.slice(0, depth), true) : undefined;
      if (isNode(node) && node.range) return `${path}:${lines.linePos(node.range[0]).line}`;
    }
  }
  return undefined;
}
