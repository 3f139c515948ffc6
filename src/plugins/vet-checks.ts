/** What a component must and must not have, checked before any of it runs. Used inside the vetting child. */

import { WASI } from "./wasi-stubs.ts";

/** The contract's interfaces that a component may export, with the versions that this host speaks. */
const CONTRACT = /^weir:plugin\/(lifecycle|decoder|transform|timer)@(.+)$/;
const SPOKEN = /^0\.1\.\d+$/;
const OURS = /^weir:plugin\/(?:log|state|effects|types)(?:@(.+))?$/;

/** Memories of one component, in all its modules: a JavaScript engine with its WASI adapter has three. */
export const MOST_MEMORIES = 4;

/** The full names of what a component exports. */
export interface Exports {
  readonly lifecycle: string;
  readonly decoder?: string | undefined;
  readonly transform?: string | undefined;
  readonly timer?: string | undefined;
}

/**
 * Refuses bytes that are no component: the transpiler would take the text format, too.
 * @throws Error
 */
export function checkPreamble(bytes: Uint8Array): void {
  const [magic, layer] = [hex(bytes.subarray(0, 4)), hex(bytes.subarray(4, 8))];
  if (magic !== "0061736d") throw new Error("is not WebAssembly");
  if (layer === "01000000") throw new Error("is a core module, not a component");
  if (layer !== "0d000100") throw new Error("is not a WebAssembly component of this version");
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/**
 * Checks imports and exports. Versions are read from the component's own WIT, whose print is `wit`; `imports` and
 * `exports` are what the transpiler found.
 * @throws Error that names what is missing, unknown or of another version
 */
export function checkContract(wit: string, imports: readonly string[], exports: readonly string[]): Exports {
  for (const line of wit.split("\n")) {
    const name = /^ {2}import (.+?)(?:;| \{)$/.exec(line)?.[1];
    if (name !== undefined) checkImport(name);
  }
  for (const name of imports) checkImport(name);
  const found: { lifecycle?: string; decoder?: string; transform?: string; timer?: string } = {};
  for (const name of exports) {
    const [, what, version = ""] = CONTRACT.exec(name) ?? [];
    if (what === undefined) continue;
    if (!SPOKEN.test(version)) throw new Error(`exports ${printable(name)}, this Weir speaks 0.1`);
    if (what === "lifecycle" || what === "decoder" || what === "transform" || what === "timer")
      found[what] = name;
  }
  const { lifecycle, ...rest } = found;
  if (lifecycle === undefined) throw new Error("exports no weir:plugin/lifecycle");
  if (Object.keys(rest).length === 0)
    throw new Error("exports none of weir:plugin/decoder, transform, timer");
  return { lifecycle, ...rest };
}

function checkImport(name: string): void {
  const ours = OURS.exec(name);
  if (ours !== null) {
    if (ours[1] !== undefined && !SPOKEN.test(ours[1]))
      throw new Error(`imports ${printable(name)}, this Weir speaks 0.1`);
    return;
  }
  if (!Object.hasOwn(WASI, name.replace(/@0\.2\.\d+$/, ""))) {
    throw new Error(`imports ${printable(name)}, which no plugin gets`);
  }
}

/**
 * Names in a core module are pasted into the generated JavaScript as they are. These characters can't end a string, a
 * comment or a line there, and compilers get by with them.
 */
const SAFE_NAME = /^[\w$.:@/#[\]|()=> -]{1,256}$/;

/**
 * Refuses a core module whose import or export names could be more than names.
 * @throws Error
 */
export function checkNames(module: WebAssembly.Module): void {
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    checkName(from);
    checkName(name);
  }
  for (const { name } of WebAssembly.Module.exports(module)) checkName(name);
}

function checkName(name: string): void {
  if (SAFE_NAME.test(name) && name !== "__proto__" && !(name in Object.prototype)) return;
  throw new Error(`has a core name that could pass for code: ${printable(name)}`);
}

const printable = (name: string): string => JSON.stringify(name.slice(0, 80));
