/** `weir passwd`: the hash that the embedded broker checks a password against. */
import { buffer } from "node:stream/consumers";
import { WeirError } from "../core/errors.ts";
import { hashPassword } from "../core/password.ts";
import type { Invocation } from "./commands.ts";

/** Reads a password, up to the end of a line, and prints its hash. */
export async function passwd({ values }: Invocation): Promise<number> {
  if (process.stdin.isTTY) process.stderr.write("password (ends with Ctrl-D, and is shown): ");
  const text = (await buffer(process.stdin)).toString().replace(/\r?\n$/, "");
  if (text === "") throw new WeirError("cli.usage", "there is no password on standard input");
  const hash = await hashPassword(Buffer.from(text));
  const { name } = values;
  process.stdout.write(typeof name === "string" ? `${name}:${hash}\n` : `${hash}\n`);
  return 0;
}
