import { expect, test } from "vitest";
import { COMMANDS } from "../../src/cli/commands.ts";
import { groupHelp, suggestion } from "../../src/cli/help.ts";
import { jsonText, printable, tableLines } from "../../src/cli/output.ts";

const HEAD = ["NAME", "STATE", "FALLBACK", "COUNT", "REASON"];
const ROWS = [
  ["pump", "on", "", "7", ""],
  ["press-1", "off", "", "1200", "what was dropped is refused, the one before stays \u001b[31m"],
];

test("a table keeps to the terminal's width: empty columns go, text is folded at spaces, numbers are left whole", () => {
  expect(tableLines(HEAD, ROWS, new Set(["COUNT"]), 44)).toEqual([
    "NAME    STATE COUNT REASON",
    "pump    on        7",
    "press-1 off    1200 what was dropped is",
    "                    refused, the one before",
    "                    stays \\x1b[31m",
  ]);
});

test("a table that goes to a pipe has every column, a line for each row, and no escape sequence of a plugin's", () => {
  const lines = tableLines(HEAD, ROWS, new Set(["COUNT"]), Number.POSITIVE_INFINITY);
  expect(lines.map((line) => line.replace(/ +/g, " "))).toEqual([
    "NAME STATE FALLBACK COUNT REASON",
    "pump on 7",
    "press-1 off 1200 what was dropped is refused, the one before stays \\x1b[31m",
  ]);
});

test("the first word of a group lists its commands, and a misspelt command gets a suggestion", () => {
  expect(groupHelp(COMMANDS, "probe")).toContain("probe on <name>");
  expect(groupHelp(COMMANDS, "tail")).toBeUndefined();
  expect(suggestion(COMMANDS, ["tale"])).toContain('"tail"');
  expect(suggestion(COMMANDS, ["plugin", "lss"])).toContain('"plugin ls"');
  expect(suggestion(COMMANDS, ["quux"])).toBe("");
});

test("what a device says can't play with a terminal, as text and as JSON", () => {
  expect(printable("\u001b[2J\u009b31m\u202e\u2028é")).toBe("\\x1b[2J\\x9b31m\\u202e\\u2028é");
  const value = { text: "\u001b[2J\u009b31m\u007f" };
  expect(jsonText(value)).toMatch(/^[\x20-\x7e]+$/);
  expect(JSON.parse(jsonText(value))).toEqual(value);
});
