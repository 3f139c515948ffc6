/** docs/dependencies.md says what package.json and the installed packages say. */
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

interface Row {
  readonly name: string;
  readonly section: string;
  readonly megabytes: number;
  readonly licence: string;
}

const page = readFileSync("docs/dependencies.md", "utf8");
const rows = page.split("\n## ").flatMap((part): Row[] => {
  const [section = ""] = part.split("\n");
  return part.split("\n").flatMap((line): Row[] => {
    const [, name, what, , megabytes, licence] = line.split("|").map((cell) => cell.trim());
    const found = /^`(.+?)`/.exec(name ?? "")?.[1];
    if (found === undefined || what === undefined || licence === undefined) return [];
    return [{ name: found, section, megabytes: Number.parseFloat(megabytes ?? ""), licence }];
  });
});

const manifest: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(
  readFileSync("package.json", "utf8"),
);
const names = (key: string): string[] => Object.keys(manifest[key] ?? {});

/** Bytes of a package's own files. */
function sizeOf(path: string): number {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.isSymbolicLink() ? 0 : stat.size;
  return readdirSync(path).reduce(
    (sum, name) => sum + (name === "node_modules" ? 0 : sizeOf(join(path, name))),
    0,
  );
}

test("every dependency has its row, in the section that it belongs to, and no other has one", () => {
  const inSection = (...sections: string[]) =>
    new Set(rows.flatMap(({ name, section }) => (sections.includes(section) ? [name] : [])));
  expect(inSection("At run time", "To build at install")).toEqual(
    new Set([...names("dependencies"), ...names("optionalDependencies")]),
  );
  expect(inSection("To develop")).toEqual(new Set(names("devDependencies")));
});

test.each(rows.filter(({ name }) => existsSync(join("node_modules", name))))(
  "$name has the licence and the size that are said",
  ({ name, licence, megabytes }) => {
    const folder = join("node_modules", name);
    const installed: { license?: string } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    expect(licence).toBe(installed.license?.replace(/^\((.*)\)$/, "$1"));
    const size = sizeOf(folder) / 1e6;
    expect(Math.abs(size - megabytes), `${size} MB`).toBeLessThan(Math.max(0.5, size / 5));
  },
);

/**
 * npm runs `node-gyp rebuild` for a locked package with a binding.gyp, even where its package.json says `gypfile: false`, unless the
 * lock says it, too: a compiler, and Node's headers from the network. `npm install` takes these lines out of the lock again.
 */
test("npm runs no script and no compiler of a dependency: package-lock.json says so", () => {
  const lock: { packages: Record<string, { hasInstallScript?: boolean; gypfile?: boolean }> } = JSON.parse(
    readFileSync("package-lock.json", "utf8"),
  );
  const running = Object.entries(lock.packages).flatMap(([path, entry]) => {
    const builds = existsSync(join(path, "binding.gyp")) && entry.gypfile !== false;
    return path !== "" && (builds || entry.hasInstallScript) ? [path] : [];
  });
  expect(running).toEqual([]);
});
