import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { newPath, numbers, planFor, removeDatabases, workerUrl } from "../helpers/outbox.ts";

afterAll(removeDatabases);

const ROUNDS = 10;
const child = fileURLToPath(new URL("../helpers/outbox-child.ts", import.meta.url));

/** Runs the child until it has said so many lines, then kills it; gives every whole line. */
async function live(path: string, first: number, lines: number): Promise<string[]> {
  const running = spawn(process.execPath, [child, path, String(first)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  let said = 0;
  running.stdout.setEncoding("utf8").on("data", (part: string) => {
    text += part;
    said += part.split("\n").length - 1;
    if (said >= lines) running.kill("SIGKILL");
  });
  const [code, signal] = await once(running, "close");
  expect([code, signal]).toEqual([null, "SIGKILL"]);
  return text.slice(0, text.lastIndexOf("\n")).split("\n");
}

it("keeps every committed chunk through kill -9, and gives a batch out again under the same key", async () => {
  const path = newPath();
  const committed = new Set<number>();
  const hashes = new Map<string, string>();
  const keys = new Map<number, string>();
  let again = 0;
  const take = (key: string, hash: string): void => {
    if (hashes.has(key)) again += 1;
    expect(hashes.get(key) ?? hash, `content of ${key}`).toBe(hash);
    hashes.set(key, hash);
  };
  const hold = (key: string, first: number, last: number): void => {
    for (let value = first; value <= last; value++) {
      if ((keys.get(value) ?? key) !== key)
        expect.fail(`value ${value} came under ${keys.get(value)} and ${key}`);
      keys.set(value, key);
    }
  };
  for (let round = 0; round < ROUNDS; round++) {
    let key = "";
    for (const line of await live(path, round * 1_000_000, 200 + 350 * (round % 4))) {
      const [what, one = "", two = ""] = line.split(" ");
      if (what === "C") committed.add(Number(one));
      else if (what === "T") {
        key = one;
        take(key, two);
      } else if (what === "V") hold(key, Number(one), Number(two));
    }
  }

  const outbox = new WorkerOutbox(workerUrl, planFor(path));
  await outbox.start();
  for (;;) {
    const leased = await outbox.lease("up", 32);
    if (leased.length === 0) break;
    for (const batch of leased) {
      const { epoch, stream, seq, span } = batch.key;
      const key = `${epoch}/${stream}/${seq}/${span}`;
      take(
        key,
        createHash("sha256")
          .update(batch.messages[0]?.payload ?? "")
          .digest("hex"),
      );
      const values = numbers(batch).map(Number);
      hold(key, values[0] ?? 0, values.at(-1) ?? -1);
    }
    await outbox.ack(
      "up",
      leased.map(({ id }) => id),
    );
  }
  const [count] = (await outbox.counts()).filter(({ stream }) => stream === "data");
  await outbox.stop();

  const whole = (number: number): boolean => keys.has(number * 10) && keys.has(number * 10 + 9);
  expect([...committed].filter((number) => !whole(number))).toEqual([]);
  // What was committed without having been acknowledged yet is all that there is beside it.
  expect(count).toMatchObject({ committed: keys.size, acked: keys.size, held: 0 });
  expect(committed.size).toBeGreaterThan(ROUNDS * 100);
  expect(again).toBeGreaterThan(0);
});
