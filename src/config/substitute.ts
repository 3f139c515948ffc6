/**
 * What stands for something else in a configuration's text: `${VAR}`, `${VAR:-default}`, `${VAR:?error}`,
 * `${file:/path}`, and `$$` for a dollar. Files are the one way to give a secret without naming its value: it works in
 * every option, also in a plugin's, so no option needs a twin that ends in `File`.
 */
import { readFileSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { fileProblem } from "./file-problem.ts";
import { knownTypes } from "./json-schema.ts";

/** Variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>;

const REFERENCE = /\$(?:\$|\{file:([^}]+)\}|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([^}]*))?\})/g;
/** A secret is a line of text, or a key. */
const MOST_SECRET_BYTES = 64 * 1024;

/** What {@link substitute} found on its way. */
export interface Substituted {
  readonly value: unknown;
  /** files that values came from */
  readonly files: readonly string[];
  /** what came out of files: never to be shown */
  readonly secrets: readonly string[];
  readonly problems: readonly { readonly keys: readonly string[]; readonly what: string }[];
}

/**
 * Fills in every reference in the text values of a tree. A relative file is looked for in `$CREDENTIALS_DIRECTORY`
 * (systemd's LoadCredential=), else beside the configuration `file`; a final line end is not part of it.
 */
export function substitute(root: unknown, environment: Environment, file: string | undefined): Substituted {
  const files: string[] = [];
  const secrets: string[] = [];
  const problems: { keys: readonly string[]; what: string }[] = [];
  const folder = environment["CREDENTIALS_DIRECTORY"] ?? (file === undefined ? "." : dirname(file));

  const fromFile = (keys: readonly string[], name: string): string => {
    const path = isAbsolute(name) ? name : join(folder, name);
    files.push(path);
    try {
      const text = readFileSync(path, "utf8");
      if (text.length > MOST_SECRET_BYTES) throw new Error(`over ${MOST_SECRET_BYTES} bytes`);
      const secret = text.replace(/\r?\n$/, "");
      if (secret !== "") secrets.push(secret);
      return secret;
    } catch (thrown) {
      const why = fileProblem(thrown);
      problems.push({ keys, what: `\${file:${name}}: ${why}${why.includes(path) ? "" : ` (${path})`}` });
      return "";
    }
  };
  const fromEnvironment = (
    keys: readonly string[],
    name: string,
    operator: string | undefined,
    argument: string | undefined,
  ): string => {
    const found = environment[name];
    if (found !== undefined && found !== "") return found;
    if (operator === "-") return argument ?? "";
    const why = operator === "?" && argument ? `: ${argument}` : " is not set";
    problems.push({ keys, what: `the environment variable ${name}${why}` });
    return "";
  };
  const walk = (value: unknown, keys: readonly string[]): unknown => {
    if (typeof value === "string") {
      let refers = false;
      const text = value.replace(
        REFERENCE,
        (_whole, path?: string, name?: string, operator?: string, argument?: string) => {
          refers ||= path !== undefined || name !== undefined;
          if (path !== undefined) return fromFile(keys, path);
          return name === undefined ? "$" : fromEnvironment(keys, name, operator, argument);
        },
      );
      return refers ? plainValue(text, knownTypes(keys)) : text;
    }
    if (Array.isArray(value)) return value.map((item, i) => walk(item, [...keys, String(i)]));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, walk(item, [...keys, key])]));
  };
  return { value: walk(root, []), files, secrets, problems };
}

/**
 * What a text stands for where the schema takes no text: the environment, and files, have nothing but text. `types` are the
 * schema's; what fits none of them stays as it is, for the schema to refuse.
 */
export function plainValue(text: string, types: ReadonlySet<string>): string | number | boolean {
  if (types.has("string")) return text;
  const isNumber = types.has("number") || types.has("integer");
  if (isNumber && /^-?\d+(?:\.\d+)?$/.test(text)) return Number(text);
  if (types.has("boolean") && (text === "true" || text === "false")) return text === "true";
  return text;
}
