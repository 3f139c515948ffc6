/** Reads weir.yaml: substitutes variables, applies overrides from the environment, checks, and says all errors at once. */
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { isCollection, isNode, LineCounter, parseDocument } from "yaml";
import type { z } from "zod";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import { type Config, configSchema } from "./schema.ts";

/** A configuration and where it came from. */
export interface LoadedConfig {
  readonly config: Config;
  /** the file read, or undefined when there was none */
  readonly file: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Bytes of a configuration file at most. */
const MOST_BYTES = 1024 * 1024;
const VARIABLE = /\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([^}]*))?\})/g;
const OVERRIDE = /^WEIR__(.+)$/;

/**
 * Loads the configuration: `file`, or `./weir.yaml` where there is one, else defaults.
 * `${VAR}`, `${VAR:-default}` and `${VAR:?error}` are filled in inside text, `$$` is a dollar; `WEIR__BROKER__PORT=1884`
 * overrides a key (a word's case is that of the schema's key, found without regard to it).
 * @throws WeirError `config.invalid` whose message lists every error with file, line and path
 */
export function loadConfig(file: string | undefined, environment: Environment): LoadedConfig {
  const path = file ?? (existsSync("weir.yaml") ? "weir.yaml" : undefined);
  const problems: string[] = [];
  const lines = new LineCounter();
  const text = path === undefined ? "" : readText(path);
  const document = parseDocument(text, { lineCounter: lines });
  const at = (offset: number): string => `${path ?? "weir.yaml"}:${lines.linePos(offset).line}`;
  for (const error of document.errors)
    problems.push(`${at(error.pos[0])}: ${error.message.split("\n", 1)[0]}`);
  if (problems.length > 0) throw invalid(problems);

  const lineOf = (keys: readonly PropertyKey[]): string => {
    for (let depth = keys.length; depth > 0; depth--) {
      const node = isCollection(document.contents) ? document.getIn(keys.slice(0, depth), true) : undefined;
      if (isNode(node) && node.range) return at(node.range[0]);
    }
    return path ?? "the configuration";
  };
  const raw: unknown = document.toJS({ maxAliasCount: 100 }) ?? {};
  const substituted = substitute(raw, [], environment, (keys, what) =>
    problems.push(`${lineOf(keys)}: ${keys.join(".")}: ${what}`),
  );
  const merged = override(substituted, environment, problems);
  const parsed = configSchema.safeParse(merged);
  if (!parsed.success) {
    for (const issue of parsed.error.issues) {
      for (const { keys, message } of flatten(issue, []))
        problems.push(`${lineOf(keys)}: ${keys.join(".") || "(top)"}: ${message}`);
    }
  }
  if (problems.length > 0 || !parsed.success) throw invalid(problems);
  return { config: parsed.data, file: path === undefined ? undefined : resolve(path) };
}

function readText(path: string): string {
  try {
    const text = readFileSync(path, "utf8");
    if (text.length > MOST_BYTES) throw invalid([`${path}: over ${MOST_BYTES} bytes`]);
    return text;
  } catch (thrown) {
    if (thrown instanceof WeirError) throw thrown;
    throw invalid([`${path}: ${errnoOf(thrown) === "ENOENT" ? "no such file" : messageOf(thrown)}`]);
  }
}

const invalid = (problems: readonly string[]): WeirError =>
  new WeirError("config.invalid", problems.join("\n"));

interface Problem {
  readonly keys: readonly PropertyKey[];
  readonly message: string;
}

/** One line a problem: a union's alternatives come down to the one that got furthest, unknown keys get a suggestion. */
function flatten(issue: z.core.$ZodIssue, before: readonly PropertyKey[]): Problem[] {
  const keys = [...before, ...issue.path];
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({
      keys: [...keys, key],
      message: `unknown key${suggestion(key, keys)}`,
    }));
  }
  if (issue.code === "invalid_union") {
    const best = [...issue.errors].sort((a, b) => depth(b) - depth(a))[0];
    if (best !== undefined) return best.flatMap((inner) => flatten(inner, keys));
  }
  return [{ keys, message: issue.message }];
}

const depth = (issues: readonly z.core.$ZodIssue[]): number =>
  Math.max(0, ...issues.map((issue) => issue.path.length));

/** `; did you mean "x"?` for a key close to one that exists there. */
function suggestion(key: string, parent: readonly PropertyKey[]): string {
  let known: unknown = defaults();
  for (const part of parent)
    known = typeof known === "object" && known !== null ? Reflect.get(known, part) : undefined;
  if (typeof known !== "object" || known === null) return "";
  const close = Object.keys(known).filter((name) => distance(name.toLowerCase(), key.toLowerCase()) <= 2);
  return close[0] === undefined ? "" : `; did you mean "${close[0]}"?`;
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The configuration of an empty file. */
export const defaults = (): Config => configSchema.parse({});

function substitute(
  value: unknown,
  keys: readonly string[],
  environment: Environment,
  problem: (keys: readonly string[], what: string) => void,
): unknown {
  if (typeof value === "string") {
    return value.replace(VARIABLE, (_whole, name?: string, operator?: string, argument?: string) => {
      if (name === undefined) return "$";
      const found = environment[name];
      if (found !== undefined && found !== "") return found;
      if (operator === "-") return argument ?? "";
      problem(
        keys,
        operator === "?" && argument ? `${name}: ${argument}` : `the environment variable ${name} is not set`,
      );
      return "";
    });
  }
  if (Array.isArray(value))
    return value.map((item, i) => substitute(item, [...keys, String(i)], environment, problem));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [
        key,
        substitute(item, [...keys, key], environment, problem),
      ]),
    );
  }
  return value;
}

/** Applies `WEIR__SECTION__KEY=value`; values are read as YAML, so `true`, `5` and `[a, b]` are what they look like. */
function override(raw: unknown, environment: Environment, problems: string[]): unknown {
  let result = raw;
  for (const [name, text] of Object.entries(environment)) {
    const [, words] = OVERRIDE.exec(name) ?? [];
    if (words === undefined || text === undefined) continue;
    const keys: string[] = [];
    let known: unknown = defaults();
    for (const word of words.split("__")) {
      const names: string[] = typeof known === "object" && known !== null ? Object.keys(known) : [];
      const key =
        names.find((candidate) => candidate.toLowerCase() === word.toLowerCase()) ?? word.toLowerCase();
      keys.push(key);
      known = typeof known === "object" && known !== null ? Reflect.get(known, key) : undefined;
    }
    const value = parseDocument(text);
    if (value.errors.length > 0) problems.push(`${name}: not a YAML value`);
    else result = withKey(result, keys, value.toJS());
  }
  return result;
}

function withKey(target: unknown, [key, ...rest]: readonly string[], value: unknown): unknown {
  if (key === undefined) return value;
  const object = typeof target === "object" && target !== null && !Array.isArray(target) ? target : {};
  return { ...object, [key]: withKey(Reflect.get(object, key), rest, value) };
}
