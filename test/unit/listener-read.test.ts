import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { readShared } from "../../src/sources/listener-read.ts";
import { until } from "../helpers/until.ts";

const ends: (() => unknown)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

/** A connection: the socket that a server has accepted, and the other end. */
async function pair(): Promise<{ accepted: Socket; client: Socket }> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const client = connect(typeof address === "object" ? (address?.port ?? 0) : 0, "127.0.0.1");
  const [accepted]: Socket[] = await once(server, "connection");
  ends.push(
    () => server.close(),
    () => client.destroy(),
    () => accepted?.destroy(),
  );
  if (accepted === undefined) throw new Error("nothing was accepted");
  return { accepted, client };
}

test("accepted sockets are read into one buffer, each byte once and in order, with pauses, to the end", async () => {
  const buffers = new Set<ArrayBufferLike>();
  const pairs = await Promise.all([pair(), pair()]);
  const got = pairs.map(() => "");
  let ended = 0;
  for (const [i, { accepted }] of pairs.entries()) {
    accepted.on("end", () => {
      ended += 1;
    });
    const isShared = readShared(accepted, (bytes) => {
      buffers.add(bytes.buffer);
      got[i] += bytes.toString("latin1");
      accepted.pause();
      setImmediate(() => accepted.resume());
    });
    // Without it the listener reads as a stream: it works, and costs a tenth more.
    expect(isShared).toBe(true);
  }
  const texts = pairs.map((_, i) => Array.from({ length: 40_000 }, (_, n) => `${i}:${n};`).join(""));
  for (const [i, { client }] of pairs.entries()) client.end(texts[i] ?? "");
  await until("both to have ended", () => ended === 2);
  expect(got).toEqual(texts);
  expect(buffers.size).toBe(1);
});
