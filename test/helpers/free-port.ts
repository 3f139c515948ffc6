import { once } from "node:events";
import { createServer } from "node:net";

/** Below what Linux gives out by itself (from 32,768 on): no listener at port 0 and no connection takes it meanwhile. */
const [FIRST, COUNT] = [10_000, 10_000];
const given = new Set<number>();

/** A port of the loopback that nobody listens at, and that nobody is given by chance before it is listened at, or again. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * COUNT);
    if (given.has(port)) continue;
    const server = createServer().listen(port, "127.0.0.1");
    try {
      await once(server, "listening");
    } catch {
      continue; // taken
    }
    given.add(port);
    server.close();
    await once(server, "close");
    return port;
  }
}
