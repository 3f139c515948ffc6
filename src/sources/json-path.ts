/** The part of JSONPath (RFC 9535) that mapping rules use: `$`, or member names after it, as in `$.object.time`. */

const PATH = /^\$(?:\.[A-Za-z_][A-Za-z0-9_-]*)*$/;

/** Whether `text` is such a path. */
export const isJsonPath = (text: string): boolean => text.length <= 256 && PATH.test(text);

/** The member names of a path that {@link isJsonPath} knows, outermost first. */
export const pathNames = (path: string): readonly string[] => path.split(".").slice(1);

/** What stands at the path in a parsed JSON value, or undefined. Sees own members only. */
export function atPath(value: unknown, names: readonly string[]): unknown {
  let at = value;
  for (const name of names) {
    if (typeof at !== "object" || at === null || Array.isArray(at)) return undefined;
    at = Object.getOwnPropertyDescriptor(at, name)?.value;
  }
  return at;
}
