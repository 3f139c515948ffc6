/** A port that nothing listens on, for a program that can't be told to take any. */
import { once } from "node:events";
import { createServer } from "node:net";

/** Finds one on the loopback; it is free until somebody else takes it. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address !== null ? address.port : 0;
}
