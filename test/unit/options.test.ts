/** Every option of weir.yaml is documented, used and tested: the schema's leaves are looked for in the page, the sources and the tests. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { expect, test } from "vitest";
import { configJsonSchema, type SchemaNode } from "../../src/config/json-schema.ts";
import { configSchema } from "../../src/config/schema.ts";

/** An option's place; `<name>` stands for a name that is free to choose. */
type Path = readonly string[];

const FREE = "<name>";

/** Every path at which a value can stand, lists of values among them. */
function leaves(path: Path, node: SchemaNode): Path[] {
  const nested = Object.entries(node.properties ?? node.allOf?.[0]?.properties ?? {});
  const deeper = nested.flatMap(([key, inner]) => leaves([...path, key], inner));
  const { items, additionalProperties: free } = node;
  if (typeof free === "object" && free.properties !== undefined)
    deeper.push(...leaves([...path, FREE], free));
  if (items?.properties !== undefined) deeper.push(...leaves(path, items));
  return deeper.length === 0 ? [path] : deeper;
}
const options = leaves([], configJsonSchema());
/** Resolved where it is read: the rules and limits that it stands for take its place. */
const RESOLVED = "preset";
const shown = (path: Path): string => path.join(".");

/** Text of every TypeScript file below, without comments, by path. */
function sources(dir: string): Map<string, string> {
  const files = readdirSync(dir, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return new Map(
    files.map((name) => [
      join(dir, name),
      readFileSync(join(dir, name), "utf8").replaceAll(/^ *(?:\/\*\*|\*|\/\/).*$/gm, ""),
    ]),
  );
}

/** The option's own key, and the one above it that isn't free to choose. */
function keysOf(path: Path): { key: string; above: string | undefined } {
  const named = path.filter((part) => part !== FREE);
  return { key: named.at(-1) ?? "", above: named.at(-2) };
}
const hasWord = (text: string, word: string): boolean => new RegExp(`\\b${word}\\b`).test(text);
const setsKey = (text: string, key: string): boolean =>
  new RegExp(`\\b${key}["']?: |[{,] ${key}[,} ]`).test(text);

test("there are options", () => expect(options.length).toBeGreaterThan(100));

test("every option is documented, with what it means", () => {
  const meanings = new Map(
    readFileSync("docs/configuration.md", "utf8")
      .split("\n")
      .flatMap((row) => {
        const [, path, , , meaning] = /^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*) \|$/.exec(row) ?? [];
        return path === undefined ? [] : [[path.replaceAll("[]", ""), meaning ?? ""] as const];
      }),
  );
  expect(options.map(shown).filter((path) => (meanings.get(path)?.length ?? 0) < 3)).toEqual([]);
});

test("no password has a default", () => {
  const secrets = options.filter((path) => /password|secret|token/i.test(keysOf(path).key));
  expect(secrets.length).toBeGreaterThan(2);
  const defaults = JSON.stringify(configSchema.parse({}), (_key, value) =>
    value instanceof Map ? Object.fromEntries(value) : value,
  );
  for (const path of secrets) expect(defaults).not.toContain(`"${keysOf(path).key}"`);
});

test("every option is read where it is for", () => {
  const owners: Readonly<Record<string, readonly string[]>> = {
    http: ["src/api"],
    broker: ["src/sources"],
    sources: ["src/sources"],
    plugins: ["src/plugins"],
    outbox: ["src/outbox"],
    uplinks: ["src/uplink", "src/outbox"],
  };
  const code = [...sources("src")].filter(([file]) => basename(file) !== "options.ts");
  const unread = options.filter((path) => {
    const { key } = keysOf(path);
    // Its own folder, or where the parts are put together.
    const places = ["src", "src/core", "src/pipeline", ...(owners[path[0] ?? ""] ?? [])];
    return (
      key !== RESOLVED && !code.some(([file, text]) => places.includes(dirname(file)) && hasWord(text, key))
    );
  });
  expect(unread.map(shown)).toEqual([]);
});

test("every option is set by a test", () => {
  const tests = [...sources("test")].filter(([file]) => basename(file) !== "options.test.ts");
  const unset = options.filter((path) => {
    // The rules of an external broker are those of devices at the embedded one.
    const { key, above } = keysOf(
      path.includes("rules") && path.includes("mqtt") ? ["devices", ...path.slice(-1)] : path,
    );
    return !tests.some(([, text]) => setsKey(text, key) && (above === undefined || hasWord(text, above)));
  });
  expect(unset.map(shown)).toEqual([]);
});
