/**
 * The files of a configuration: `weir.yaml`, then `conf.d/*.yaml` beside it in the order of their names. Later ones win:
 * mappings are merged key by key, lists and plain values are replaced.
 */
import { isUtf8 } from "node:buffer";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Document, isCollection, isNode, LineCounter, parseDocument, type YAMLError } from "yaml";
import { errnoOf, messageOf } from "../core/errors.ts";
import { fileProblem } from "./file-problem.ts";

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
    const document = parseDocument(text, { lineCounter: lines, stringKeys: true, logLevel: "error" });
    // Of what one slip makes of a line, and of the next ones, the first says what it was.
    const said = new Set<number>();
    for (const error of [...document.errors, ...document.warnings].sort((a, b) => a.pos[0] - b.pos[0])) {
      const { line } = lines.linePos(error.pos[0]);
      if (!said.has(line)) problems.push(`${path}:${line}: ${syntaxProblem(error, text)}`);
      said.add(line);
    }
    parsed.push({ path, document, lines });
  }
  let raw: unknown = {};
  for (const { document, path } of parsed) {
    try {
      raw = merge(raw, document.toJS({ maxAliasCount: 100 }) ?? {});
    } catch (thrown) {
      const bomb = /alias count/i.test(messageOf(thrown));
      problems.push(`${path}: ${bomb ? "over 100 aliases (*name) of aliases" : messageOf(thrown)}`);
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

/** What the parser has against a place, in words for somebody who writes a configuration, not a parser. */
function syntaxProblem({ code, message, pos: [from, to] }: YAMLError, text: string): string {
  const line = text.slice(text.lastIndexOf("\n", from) + 1).split("\n", 1)[0] ?? "";
  if (code === "DUPLICATE_KEY") return `the key ${/^[^\s:]*/.exec(text.slice(from))?.[0]} is there twice`;
  if (code === "MULTIPLE_DOCS") return "a second document begins here (---): expected one";
  if (code === "NON_STRING_KEY") return "expected a plain text as key";
  if (code === "TAG_RESOLVE_FAILED") return `unknown tag ${text.slice(from, to)}: expected a plain value`;
  if (code === "RESOURCE_EXHAUSTION" || /call stack|stack overflow/i.test(message)) return "nested too deep";
  const [first = ""] = message.split("\n", 1);
  const hint = /[{,[:]\s*\$\{/.test(line) ? `; a \${…} within { } or [ ] needs quotes: "\${…}"` : "";
  return `${first.replace(/ at line \d+, column \d+:$/, "")}${hint}`;
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
    const bytes = readFileSync(path);
    if (bytes.length > MOST_BYTES) problems.push(`${path}: over ${MOST_BYTES} bytes`);
    else if (!isUtf8(bytes)) problems.push(`${path}: not text in UTF-8`);
    else if (bytes.includes(0)) problems.push(`${path}: not text: it has NUL bytes, as after a power cut`);
    else return bytes.toString("utf8");
  } catch (thrown) {
    problems.push(`${path}: ${fileProblem(thrown)}`);
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
