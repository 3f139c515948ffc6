/**
 * A process to be killed: it appends chunks and takes batches as fast as it can, and says so line by line, each written
 * before the next step is taken.
 *
 *     C <number>                             chunk <number> is committed; it has ten rows, number * 10 and on
 *     T <epoch>/<stream>/<seq>/<span> <hash> a batch was leased; with its payload's hash
 *     V <first> <last>                       its values, which are consecutive
 *
 * Arguments: the database, and the number of the first chunk.
 */
import { createHash } from "node:crypto";
import { writeSync } from "node:fs";
import { errnoOf } from "../../src/core/errors.ts";
import { WorkerOutbox } from "../../src/outbox/outbox.ts";
import { frameOf, numbers, planFor, range, uplink, workerUrl } from "./outbox.ts";

const [path = "", first = "0"] = process.argv.slice(2);
const pause = new Int32Array(new SharedArrayBuffer(4));
/** Lines are short enough for a pipe to take all of one or nothing (pipe(7)). */
function say(line: string): void {
  for (;;) {
    try {
      writeSync(1, `${line}\n`);
      return;
    } catch (thrown) {
      // Whoever reads is slow.
      if (errnoOf(thrown) !== "EAGAIN") throw thrown;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

const batch = { samples: 50, bytes: 1e6, ageMs: 5 };
const outbox = new WorkerOutbox(workerUrl, planFor(path, { uplinks: [uplink("up", { batch })] }));
await outbox.start();

let next = Number(first);
async function append(): Promise<never> {
  for (;;) {
    const number = next++;
    const frame = frameOf(range(number * 10, number * 10 + 10));
    await outbox.append({ stream: "data", frame, state: [], effects: [] });
    say(`C ${number}`);
  }
}

async function take(): Promise<never> {
  for (;;) {
    const leased = await outbox.lease("up", 4);
    for (const one of leased) {
      const { epoch, stream, seq, span } = one.key;
      const hash = createHash("sha256")
        .update(one.messages[0]?.payload ?? "")
        .digest("hex");
      const values = numbers(one);
      say(`T ${epoch}/${stream}/${seq}/${span} ${hash}\nV ${values[0]} ${values.at(-1)}`);
    }
    // Every second one stays on lease, and comes again in the next life.
    const done = leased.filter(({ id }) => id % 2 === 0).map(({ id }) => id);
    if (done.length > 0) await outbox.ack("up", done);
    else await new Promise((resolve) => setImmediate(resolve));
  }
}

await Promise.all([...Array.from({ length: 8 }, append), take()]);
