/** What a vetting child says, and what lies in the cache of it: checked here, because the child has read a stranger's bytes. */

import type { Exports } from "./vet-checks.ts";

/** Bytes of one file, and of all of them, at most. */
export const MOST_FILE_BYTES: number = 64 * 1024 * 1024;
const MOST_FILES = 100;
const MOST_MEMORIES = 64;
const MOST_NAME = 100;
const MOST_REASON = 1000;
const FILE_NAME = /^component(?:\.js|\.core\d{0,4}\.wasm)$/;

/** What vetting found out, and the names and sizes of what it made. */
export interface VettedFiles {
  readonly exports: Exports;
  /** wasm memories of one instance */
  readonly memories: number;
  readonly files: readonly { readonly name: string; readonly size: number }[];
}

/** The child's whole answer; the files follow in their order. */
export type VetAnswer =
  | ({ readonly ok: true } & VettedFiles)
  | { readonly ok: false; readonly reason: string };

/**
 * The answer in what a child sent.
 * @throws Error when it is none
 */
export function readAnswer(value: unknown): VetAnswer {
  const { ok, ...rest } = fields(value, ["ok", "reason", "exports", "memories", "files"]);
  if (ok === true) return { ok, ...readVetted(rest) };
  const { reason } = fields(rest, ["reason"]);
  if (ok !== false || typeof reason !== "string" || reason.length > MOST_REASON) throw unreadable();
  return { ok, reason };
}

/**
 * What lies beside vetted files.
 * @throws Error when it is something else
 */
export function readVetted(value: unknown): VettedFiles {
  const { exports, memories, files } = fields(value, ["exports", "memories", "files"]);
  if (!isCount(memories, 0, MOST_MEMORIES)) throw unreadable();
  if (!Array.isArray(files) || files.length < 2 || files.length > MOST_FILES) throw unreadable();
  return { exports: readExports(exports), memories, files: files.map(readFile) };
}

function readExports(value: unknown): Exports {
  const { lifecycle, decoder, transform, timer } = fields(value, [
    "lifecycle",
    "decoder",
    "transform",
    "timer",
  ]);
  const isSome = (name: unknown): name is string | undefined => name === undefined || isName(name);
  if (!isName(lifecycle) || !isSome(decoder) || !isSome(transform) || !isSome(timer)) throw unreadable();
  return {
    lifecycle,
    ...(decoder === undefined ? {} : { decoder }),
    ...(transform === undefined ? {} : { transform }),
    ...(timer === undefined ? {} : { timer }),
  };
}

function readFile(value: unknown): VettedFiles["files"][number] {
  const { name, size } = fields(value, ["name", "size"]);
  if (typeof name !== "string" || !FILE_NAME.test(name) || !isCount(size, 1, MOST_FILE_BYTES))
    throw unreadable();
  return { name, size };
}

const isName = (value: unknown): value is string => typeof value === "string" && value.length <= MOST_NAME;

const isCount = (value: unknown, least: number, most: number): value is number =>
  Number.isInteger(value) && Number(value) >= least && Number(value) <= most;

/** An object's own fields; any beside these is refused. */
function fields(value: unknown, names: readonly string[]): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) throw unreadable();
  const found = Object.entries(value);
  if (!found.every(([name]) => names.includes(name))) throw unreadable();
  return Object.fromEntries(found);
}

const unreadable = (): Error => new Error("not what vetting answers");
