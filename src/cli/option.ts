import type { Invocation } from "./commands.ts";

/** The value of an option that takes one. */
export function option(invocation: Invocation, name: string): string | undefined {
  const value = invocation.values[name];
  return typeof value === "string" ? value : undefined;
}
