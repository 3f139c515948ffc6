import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

const pages = ["README.md", "CHANGELOG.md", "bench", "docs", "plugins", "wit"].flatMap((path) =>
  path.endsWith(".md")
    ? [path]
    : readdirSync(path, { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".md"))
        .map((name) => join(path, name)),
);

/** Headings as links name them. */
const anchors = (page: string): Set<string> =>
  new Set(
    [...readFileSync(page, "utf8").matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );

test("links between the documents lead somewhere", () => {
  const broken = pages.flatMap((page) =>
    [...readFileSync(page, "utf8").matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link = ""]) => {
      if (/^[a-z]+:/.test(link)) return [];
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? page : join(dirname(page), path);
      if (!existsSync(target)) return [`${page}: ${link}`];
      return anchor !== undefined && target.endsWith(".md") && !anchors(target).has(anchor)
        ? [`${page}: ${link}`]
        : [];
    }),
  );
  expect(broken).toEqual([]);
});

test("docs/api.md has every path that is served", () => {
  const page = readFileSync("docs/api.md", "utf8");
  const served = [...readFileSync("src/api/routes.ts", "utf8").matchAll(/"(\/[a-z0-9/]+)"/g)].map(
    ([, path]) => path ?? "",
  );
  expect(served.length).toBeGreaterThan(10);
  expect(served.filter((path) => !page.includes(path))).toEqual([]);
});
