/** What a schema has against a configuration, in lines that a person can act on. */
import type { z } from "zod";
import { didYouMean } from "../core/did-you-mean.ts";
import { knownKeys } from "./json-schema.ts";

/** One thing that is wrong, and where. */
export interface Problem {
  readonly keys: readonly PropertyKey[];
  readonly message: string;
}

/** Every problem of a failed check of `input`, with a suggestion where something close exists. */
export const problemsOf = (error: z.core.$ZodError, input: unknown): readonly Problem[] =>
  error.issues.flatMap((issue) => flatten(issue, [], input));

/** One entry a problem: a union's alternatives come down to the one that got furthest. */
function flatten(issue: z.core.$ZodIssue, before: readonly PropertyKey[], input: unknown): Problem[] {
  const keys = [...before, ...issue.path];
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({
      keys: [...keys, key],
      message: `unknown key${didYouMean(key, knownKeys(keys))}`,
    }));
  }
  if (issue.code === "invalid_union") {
    const best = [...issue.errors].sort((a, b) => depth(b) - depth(a))[0];
    if (best !== undefined) return best.flatMap((inner) => flatten(inner, keys, input));
  }
  const given = keys.reduce<unknown>(
    (value, key) => (typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined),
    input,
  );
  return [{ keys, message: worded(issue, given) }];
}

/** What a schema's types are called by people who write YAML. */
const EXPECTED: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  object: "a section (key: value)",
  record: "a section (key: value)",
  array: "a list",
};
/** What YAML 1.1 took for a boolean; 1.2 does not. */
const YES = /^(?:yes|on|true)$/i;
const NO = /^(?:no|off|false)$/i;

/** The schema's own words where an option has some; else what was expected, and what was found. Never the value: it may be a secret. */
function worded(issue: z.core.$ZodIssue, given: unknown): string {
  const message = issue.message.replace(/^Invalid (?:input|option): /, "");
  if (issue.code === "invalid_value") {
    const values = issue.values.filter((one) => typeof one === "string");
    return `${given === undefined ? "missing: " : ""}${message}${typeof given === "string" ? didYouMean(given, values) : ""}`;
  }
  if (issue.code === "invalid_type" && message !== issue.message) {
    const expected = EXPECTED[issue.expected] ?? issue.expected;
    if (given === undefined) return `missing: expected ${expected}`;
    return `expected ${expected}, found ${foundOf(given)}${hintOf(issue.expected, given)}`;
  }
  if ((issue.code === "too_big" || issue.code === "too_small") && /^Too (?:big|small):/.test(message)) {
    const limit = issue.code === "too_big" ? issue.maximum : issue.minimum;
    const than =
      issue.inclusive === false ? (issue.code === "too_big" ? "less than" : "more than") : undefined;
    const unit = issue.origin === "string" ? " characters" : issue.origin === "array" ? " entries" : "";
    return `expected ${than ?? (issue.code === "too_big" ? "at most" : "at least")} ${limit}${unit}`;
  }
  return message;
}

function foundOf(given: unknown): string {
  if (given === null) return "nothing";
  if (Array.isArray(given)) return "a list";
  if (typeof given === "object") return "a section";
  if (typeof given === "string") return "text";
  if (typeof given === "boolean") return "true or false";
  return Number.isFinite(given) ? "a number" : "one that is not finite";
}

function hintOf(expected: string, given: unknown): string {
  if (expected === "string" && (typeof given === "number" || typeof given === "boolean"))
    return ": put it in quotes";
  if (typeof given !== "string") return "";
  if (expected === "boolean" && YES.test(given)) return '; did you mean "true"?';
  if (expected === "boolean" && NO.test(given)) return '; did you mean "false"?';
  const isNumber = (expected === "number" || expected === "int") && /^-?\d+(?:\.\d+)?$/.test(given);
  return isNumber ? ": leave out the quotes" : "";
}

const depth = (issues: readonly z.core.$ZodIssue[]): number =>
  Math.max(0, ...issues.map((issue) => issue.path.length));
