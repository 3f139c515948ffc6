/** Connections that a full queue turns away, as the kernel tells them by port. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { addonState, tcpListeners } from "../../src/addon/index.ts";
import { parseNetstat } from "../../src/sources/proc/network.ts";
import { eventually } from "../helpers/eventually.ts";

const hasPython = spawnSync("python3", ["--version"]).status === 0;

/** Listens, accepts nobody, and connects more often than its queue of two has room for. */
const CROWD = `
import socket, sys
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(1)
clients = []
for _ in range(6):
    c = socket.socket(); c.setblocking(False); c.connect_ex(s.getsockname()); clients.append(c)
print(s.getsockname()[1], flush=True)
sys.stdin.read()`;

test.skipIf(!addonState().ok || !hasPython)(
  "a full queue shows with its port, its limit and what it dropped",
  async () => {
    const overflows = (): number =>
      parseNetstat(readFileSync("/proc/net/netstat", "utf8"), "TcpExt").get("ListenOverflows") ?? Number.NaN;
    const before = overflows();
    const crowd = spawn("python3", ["-c", CROWD]);
    try {
      const [said] = await once(crowd.stdout, "data");
      const port = Number(said);
      await eventually(() => {
        const found = tcpListeners().find((one) => one.port === port);
        expect(found).toMatchObject({ queued: 2, limit: 1 });
        expect(found?.drops).toBeGreaterThan(0);
        expect(overflows()).toBeGreaterThan(before);
      }, 50);
    } finally {
      crowd.kill();
    }
  },
);
