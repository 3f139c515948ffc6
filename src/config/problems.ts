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
  const message = issue.message.replace(/^Invalid (?:input|option): /, "");
  const values = issue.code === "invalid_value" ? issue.values.filter((one) => typeof one === "string") : [];
  const given = keys.reduce<unknown>(
    (value, key) => (typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined),
    input,
  );
  return [{ keys, message: `${message}${typeof given === "string" ? didYouMean(given, values) : ""}` }];
}

const depth = (issues: readonly z.core.$ZodIssue[]): number =>
  Math.max(0, ...issues.map((issue) => issue.path.length));
