/** `weir passwd`: the hash that the embedded broker checks a password against. */
import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { WeirError } from "../core/errors.ts";
import { hashPassword } from "../core/password.ts";
import type { Invocation } from "./commands.ts";

/** What a line of `name:hash` can begin with, and be read again: no comment, and no second colon. */
const NAME = /^[^:#\s\u0000-\u001f\u007f][^:\u0000-\u001f\u007f]{0,255}$/;

/** Reads a password, up to the end of a line, and prints its hash. */
export async function passwd({ values }: Invocation): Promise<number> {
  const { name } = values;
  if (typeof name === "string" && !NAME.test(name))
    throw new WeirError(
      "cli.usage",
      "--name takes no colon, no line end, and no # or blank at its beginning",
    );
  const piped = async (): Promise<string> => (await buffer(process.stdin)).toString().replace(/\r?\n$/, "");
  const text = process.stdin.isTTY ? await typed() : await piped();
  if (text === "") throw new WeirError("cli.usage", "there is no password on standard input");
  const hash = await hashPassword(Buffer.from(text));
  process.stdout.write(typeof name === "string" ? `${name}:${hash}\n` : `${hash}\n`);
  return 0;
}

/** A line from the terminal, which doesn't show it; empty when it is broken off. */
async function typed(): Promise<string> {
  process.stderr.write("password (not shown): ");
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  const { promise, resolve } = Promise.withResolvers<string>();
  reader.once("line", resolve);
  reader.once("SIGINT", () => resolve(""));
  reader.once("close", () => resolve(""));
  const text = await promise;
  reader.close();
  process.stderr.write("\n");
  return text;
}
