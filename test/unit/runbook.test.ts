import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ERRORS, OWN_ALARMS } from "../../src/core/errors.ts";

const page = readFileSync("docs/operations.md", "utf8");
const entry = (heading: string): string => page.split(`\n### ${heading}\n`)[1]?.split("\n#")[0]?.trim() ?? "";

test("docs/operations.md has an entry with something to do for every error code and every alarm of Weir's own", () => {
  const missing = [
    ...Object.keys(ERRORS).map((code) => `\`${code}\``),
    ...OWN_ALARMS.map((code) => `alarm \`${code}\``),
  ].filter((heading) => entry(heading).length < 40);
  expect(missing, "give each of these a `### ` entry in docs/operations.md").toEqual([]);
});

test("and none for codes that are gone", () => {
  const headings = [...page.matchAll(/^### `(.+)`$/gm)].map(([, code]) => code);
  expect(headings.filter((code) => !Object.hasOwn(ERRORS, code ?? ""))).toEqual([]);
});
