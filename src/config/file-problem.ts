/** Why a file of the configuration can't be read. */
import { errnoOf, messageOf } from "../core/errors.ts";

/** In words for a person, without the file's name where the system gives none. */
export function fileProblem(thrown: unknown): string {
  const errno = errnoOf(thrown);
  if (errno === "ENOENT") return "no such file";
  if (errno === "EISDIR") return "is a folder";
  return errno === "EACCES" ? `not to be read by the user of id ${process.geteuid?.()}` : messageOf(thrown);
}
