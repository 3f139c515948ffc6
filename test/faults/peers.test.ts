/** Real peers: programs of others that read what Weir stores and publishes, by its documents alone. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { STEPS } from "../../src/outbox/steps.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { freePort } from "../helpers/free-port.ts";

const MESSAGES = 200;
let folder: AgentFolder;
let agent: Agent;

beforeAll(async () => {
  folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    uplinks: { dead: { url: `mqtt://127.0.0.1:${await freePort()}`, streams: ["data"] } },
  });
  agent = await Agent.start(folder);
});
afterAll(async () => {
  await agent.kill();
  folder.remove();
});

async function publish(device: string): Promise<void> {
  const client = await agent.client();
  await Promise.all(
    Array.from({ length: MESSAGES }, (_, n) =>
      client.publishAsync(`devices/${device}/t`, JSON.stringify({ n }), { qos: 1 }),
    ),
  );
  await client.endAsync();
}

test.skipIf(!hasProgram("sqlite3"))(
  "sqlite3 reads the outbox beside the running agent, and every lane adds up (needs sqlite3)",
  async () => {
    await publish("by-sqlite");
    const ask = (sql: string): string => {
      const done = spawnSync("sqlite3", ["-readonly", join(folder.dir, "data", "weir.db"), sql], {
        encoding: "utf8",
      });
      expect(done.stderr).toBe("");
      return done.stdout.trim();
    };
    expect(ask("PRAGMA application_id; PRAGMA user_version; PRAGMA integrity_check")).toBe(
      `${0x57454952}\n${STEPS.length}\nok`,
    );
    const wrong = ask(`SELECT uplink, stream FROM lane WHERE uplink <> '' AND committed <>
      acked + dropped + rejected + lost + pending_samples +
      coalesce((SELECT sum(samples) FROM backlog b WHERE b.uplink = lane.uplink AND b.stream = lane.stream), 0) +
      coalesce((SELECT sum(span) FROM batch b WHERE b.uplink = lane.uplink AND b.stream = lane.stream), 0)`);
    expect(wrong).toBe("");
    // What the dead uplink holds are chunks that are there, numbered without a hole.
    const held = "SELECT sum(samples), max(seq + samples) - min(seq) FROM chunk WHERE stream = 'data'";
    const [samples, numbers] = ask(held).split("|").map(Number);
    expect(samples).toBeGreaterThanOrEqual(MESSAGES);
    expect(samples).toBe(numbers);
    const { lines } = await folder.api.ledger();
    const dead = lines.find(({ name }) => name === "dead/data");
    expect(dead?.held).toBe(samples);
  },
);
