/** JSON payloads: parsed, then flattened into samples (docs/specs/mapping.md, "JSON"). */
import { Kind } from "../core/frame.ts";
import type { PathNode, PathTree, Samples } from "./samples.ts";

/** Levels of objects and arrays in a message. */
const DEPTH = 32;

/** An integer that a double can't hold, as its digits stand in the JSON. */
export class ExactInteger {
  readonly digits: string;

  constructor(digits: string) {
    this.digits = digits;
  }
}

/** What {@link flatten} answers when numbers must be read again with {@link parseExact}. */
export const INEXACT = "integers beyond 2^53";

const INTEGER = /^-?\d+$/;

/** Like JSON.parse, with an {@link ExactInteger} in the place of each integer beyond 2^53. Slower by far. */
export function parseExact(json: string): unknown {
  return JSON.parse(json, (_key: string, value: unknown, context?: { source?: string }) => {
    if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
    const source = context?.source ?? "";
    return INTEGER.test(source) ? new ExactInteger(source) : value;
  });
}

/**
 * Adds every value below (and at) `value` to `samples`: a nested one is named by its path from `node`, joined by `.`,
 * positions in arrays count from 0. Empty objects and arrays have no values.
 * @param omit names of the member that is left out, counted from `value`
 * @param exact whether `value` comes from {@link parseExact}
 * @returns the reason why the message is not valid, or {@link INEXACT}
 */
export function flatten(
  value: unknown,
  node: PathNode,
  paths: PathTree,
  samples: Samples,
  omit: readonly string[] | undefined,
  exact: boolean,
  depth = 0,
): string | undefined {
  switch (typeof value) {
    case "number":
      if (value <= Number.MAX_SAFE_INTEGER && value >= -Number.MAX_SAFE_INTEGER)
        return samples.number(node.path, Kind.number, value);
      if (!exact) return INEXACT;
      if (!Number.isFinite(value)) return `number of ${JSON.stringify(node.path)} is beyond a double`;
      return samples.number(node.path, Kind.number, value);
    case "string":
      return samples.text(node.path, value);
    case "boolean":
      return samples.number(node.path, Kind.boolean, value ? 1 : 0);
  }
  if (value === null) return samples.number(node.path, Kind.null, 0);
  if (value instanceof ExactInteger) return samples.text(node.path, value.digits);
  if (depth === DEPTH) return `nested deeper than ${DEPTH} levels`;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const child = paths.child(node, String(i));
      if (typeof child === "string") return child;
      const problem = flatten(value[i], child, paths, samples, undefined, exact, depth + 1);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }
  if (!isObject(value)) return undefined;
  for (const key in value) {
    const omitted = omit?.[0] === key;
    if (omitted && omit?.length === 1) continue;
    const child = paths.child(node, key);
    if (typeof child === "string") return child;
    const problem = flatten(
      value[key],
      child,
      paths,
      samples,
      omitted ? omit?.slice(1) : undefined,
      exact,
      depth + 1,
    );
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** What is left of JSON's types after the others. */
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object";
