/** Loads a configuration: files, references, overrides from the environment, the schema; all errors are said at once. */
import { parseDocument } from "yaml";
import { WeirError } from "../core/errors.ts";
import { withPresets } from "../uplink/options.ts";
import { type ConfigFiles, readConfigFiles } from "./files.ts";
import { knownKeys, knownTypes } from "./json-schema.ts";
import { mainFile } from "./main-file.ts";
import { problemsOf } from "./problems.ts";
import { type Config, configSchema } from "./schema.ts";
import { secretsOf } from "./secrets.ts";
import { type Environment, substitute } from "./substitute.ts";

/** A configuration and where it came from. */
export interface LoadedConfig {
  readonly config: Config;
  /** the main file, or undefined when there is none */
  readonly file: string | undefined;
  /** everything that was read, secrets' files too: a change of any of them may change the configuration */
  readonly files: readonly string[];
  /** what the files say, merged, with references as they stand in the text */
  readonly raw: unknown;
  /** values that are never to be shown */
  readonly secrets: ReadonlySet<string>;
  /** the main file is there and has no byte: what a full disk leaves of it */
  readonly empty: boolean;
}

const OVERRIDE = /^WEIR__(.+)$/;

/**
 * Loads the configuration: `file`, or `./weir.yaml`, or `/etc/weir/weir.yaml`, where there is one, with the `conf.d/*.yaml`
 * beside it; else defaults. `WEIR__BROKER__PORT=1884` overrides a key (found without regard to case).
 * @throws WeirError `config.invalid` whose message lists every error with file, line and path
 */
export function loadConfig(file: string | undefined, environment: Environment): LoadedConfig {
  return resolveConfig(readConfigFiles(mainFile(file)), environment);
}

/** The same for files that have been read. */
export function resolveConfig(read: ConfigFiles, environment: Environment): LoadedConfig {
  const { file, raw, empty } = read;
  if (read.problems.length > 0) throw invalid(read.problems);
  const problems: string[] = [];
  const names = new Map<string, string>();
  const place = (keys: readonly PropertyKey[]): string => {
    for (let depth = keys.length; depth > 0; depth--) {
      const name = names.get(keys.slice(0, depth).join("."));
      if (name !== undefined) return `the environment variable ${name}`;
    }
    return read.placeOf(keys);
  };
  const overridden = override(raw, environment, names, problems);
  const { value, files, secrets, problems: references } = substitute(overridden, environment, file);
  for (const { keys, what } of references) problems.push(`${place(keys)}: ${keys.join(".")}: ${what}`);
  const parsed = configSchema.safeParse(withPresets(value));
  if (!parsed.success) {
    for (const { keys, message } of problemsOf(parsed.error, value))
      problems.push(`${place(keys)}: ${keys.join(".") || "(top)"}: ${message}`);
  }
  if (problems.length > 0 || !parsed.success) throw invalid(problems);
  const hidden = new Set([...secrets, ...secretsOf(parsed.data)]);
  return { config: parsed.data, file, files: [...read.files, ...files], raw, secrets: hidden, empty };
}

/** Line 9 comes before line 10. */
const byLine = new Intl.Collator("en", { numeric: true });

const invalid = (problems: readonly string[]): WeirError =>
  new WeirError("config.invalid", problems.toSorted(byLine.compare).join("\n"));

/** The configuration of an empty file. */
export const defaults = (): Config => configSchema.parse({});

/** Applies `WEIR__SECTION__KEY=value`; values are read as YAML, so `true`, `5` and `[a, b]` are what they look like. */
function override(
  raw: unknown,
  environment: Environment,
  names: Map<string, string>,
  problems: string[],
): unknown {
  let result = raw;
  for (const [name, text] of Object.entries(environment)) {
    const [, words] = OVERRIDE.exec(name) ?? [];
    if (words === undefined || text === undefined) continue;
    const keys: string[] = [];
    for (const word of words.split("__")) {
      const known = knownKeys(keys).find((key) => key.toLowerCase() === word.toLowerCase());
      keys.push(known ?? word.toLowerCase());
    }
    const value = parseDocument(text);
    names.set(keys.join("."), name);
    if (value.errors.length > 0) problems.push(`the environment variable ${name}: not a YAML value`);
    else result = withKey(result, keys, asText(value.toJS(), text, keys));
  }
  return result;
}

/** What looks like a number or a boolean is text where the schema takes text alone: a password of digits keeps its zeros. */
function asText(value: unknown, text: string, keys: readonly string[]): unknown {
  const types = knownTypes(keys);
  const isPlain = typeof value === "number" || typeof value === "boolean";
  return isPlain && types.size === 1 && types.has("string") ? text : value;
}

function withKey(target: unknown, [key, ...rest]: readonly string[], value: unknown): unknown {
  if (key === undefined) return value;
  const object = typeof target === "object" && target !== null && !Array.isArray(target) ? target : {};
  const inner: unknown = Object.hasOwn(object, key) ? Reflect.get(object, key) : undefined;
  return { ...object, [key]: withKey(inner, rest, value) };
}
