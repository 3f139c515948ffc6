/** The table of TCP connections: through the iterator and through sock_diag, over real connections. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { type Connection, type ConnectionTable, openConnections } from "../../src/addon/connections.ts";
import { addonState } from "../../src/addon/index.ts";
import { type Frame, validate } from "../../src/core/frame.ts";
import { FrameBuilder } from "../../src/core/frame-builder.ts";
import { Ledger } from "../../src/core/ledger.ts";
import { KernelSource } from "../../src/sources/kernel.ts";
import { addConnections } from "../../src/sources/kernel-connections.ts";
import { eventually } from "../helpers/eventually.ts";
import { bpfHoldings, missing, type Row, rowsOf } from "./helpers.ts";

const root = join(import.meta.dirname, "..", "..");
const has = (program: string): boolean => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;

/** The ways that this machine has, by name. */
function tables(): ConnectionTable[] {
  const best = openConnections();
  const plain = openConnections({ iterator: false });
  if (!best.on || !plain.on) return expect.fail("no addon");
  return [best.table, plain.table];
}

/** A connection whose server reads nothing of what the client sends. */
async function stuck(address: string, bytes: number): Promise<{ port: number; end(): Promise<void> }> {
  const server = createServer({ pauseOnConnect: true });
  server.listen(0, address);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client = connect(port, address);
  const [socket] = await once(server, "connection");
  client.write(Buffer.alloc(bytes));
  return {
    port,
    async end() {
      client.destroy();
      socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

describe.skipIf(!addonState().ok)("the table of connections", () => {
  const ends: (() => unknown)[] = [];
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });

  for (const address of ["127.0.0.1", "::1"]) {
    test(`both ways tell state, queues and round-trip time of a connection to ${address}, alike`, async () => {
      // Sending stops when the receiver's window is full.
      const { port, end } = await stuck(address, 32 << 20);
      ends.push(end);
      for (const table of tables()) {
        ends.push(() => table.close());
        const of = (state: string, side: "localPort" | "peerPort"): Connection | undefined =>
          table.read().connections.find((one) => one.state === state && one[side] === port);
        await eventually(() => {
          expect(of("established", "localPort")?.receiveQueue).toBeGreaterThan(10_000);
          expect(of("established", "peerPort")?.sendQueue).toBeGreaterThan(10_000);
        });
        const client = of("established", "peerPort");
        expect(client).toMatchObject({
          localAddress: address,
          peerAddress: address,
          uid: process.getuid?.(),
        });
        expect(client?.rttS).toBeGreaterThan(0);
        expect(client?.rttS).toBeLessThan(10);
        expect(of("listen", "localPort")).toMatchObject({
          localAddress: address,
          peerAddress: "",
          receiveQueue: 0,
          sendQueue: 511,
        });
      }
    });
  }

  test("as rows it is bounded: the largest groups by name, the others of a state together", () => {
    const one = (i: number): Connection => ({
      state: "established",
      localAddress: "10.0.0.1",
      localPort: i < 100 ? 8883 : 40_000 + i,
      peerAddress: `10.1.${i >> 8}.${i & 255}`,
      peerPort: 443,
      receiveQueue: 2,
      sendQueue: 0,
      retransmits: 1,
      rttS: 0.004,
      uid: 0,
    });
    const own = { ...one(7), localPort: 44_818, peerAddress: "10.2.0.1" };
    const all = [...Array.from({ length: 5000 }, (_, i) => one(i)), one(3), one(3), own, own];
    all.push({ ...own, state: "listen", peerAddress: "", peerPort: 0 });
    const builder = new FrameBuilder();
    addConnections(builder, { connections: all, seen: all.length + 9 }, 1_000_000);
    const frame = builder.build();
    validate(frame);
    const rows = new Map(rowsOf(frame).map(({ metric, value, unit }) => [metric, `${value} ${unit}`]));
    expect(rows.size).toBeLessThan(400);
    const count = "system.network.connection.count;network.connection.state=";
    expect(rows.get(`${count}established;network.transport=tcp`)).toBe("5004 {connection}");
    expect(rows.get(`${count}_other;network.transport=tcp`)).toBe("9 {connection}");
    const peer = "network.connection.state=established;network.local.port=8883;network.peer.address=10.1.0.3";
    expect(rows.get(`tcp.peer.connection.count;${peer}`)).toBe("3 {connection}");
    expect(rows.get(`tcp.peer.connection.receive_queue;${peer}`)).toBe("6 By");
    expect(rows.get(`tcp.peer.connection.retransmits;${peer}`)).toBe("3 {segment}");
    expect(rows.get(`tcp.peer.connection.rtt;${peer}`)).toBe("0.004 s");
    // A port is a client's only where nobody listens.
    const high =
      "network.connection.state=established;network.local.port=44818;network.peer.address=10.2.0.1";
    expect(rows.get(`tcp.peer.connection.count;${high}`)).toBe("2 {connection}");
    const other = "network.connection.state=established;network.peer.address=_other";
    expect(rows.get(`tcp.peer.connection.count;${other}`)).toBe("4937 {connection}");
  });

  test.skipIf(process.getuid?.() !== 0 || !has("nft") || !has("ip") || !has("unshare"))(
    "the command shows a connection whose segments are sent again, of its own network namespace",
    () => {
      const script = `
        ip link set lo up
        nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c tcp dport 7777 drop'
        bash -c 'echo > /dev/tcp/127.0.0.9/7777' & connecting=$!
        for i in $(seq 60); do
          "$0" "$1" probe connections --json > "$2"; grep -q '"retransmits":[1-9]' "$2" && break
        done
        kill $connecting; cat "$2"; rm "$2"`;
      const arguments_ = [process.execPath, join(root, "src/cli/main.ts"), `/tmp/weir-table-${process.pid}`];
      const ran = spawnSync("unshare", ["-n", "bash", "-c", script, ...arguments_], {
        encoding: "utf8",
        env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` },
      });
      const { via, seen, connections } = JSON.parse(ran.stdout);
      expect(via).toBe(missing === "" ? "iterator" : "sock_diag");
      expect(seen).toBe(1);
      expect(connections).toMatchObject([
        { state: "syn_sent", peerAddress: "127.0.0.9", peerPort: 7777, uid: 0 },
      ]);
      expect(connections[0].retransmits).toBeGreaterThanOrEqual(1);
    },
    60_000,
  );

  test("on demand its rows are sent at once and in each interval, and it leaves nothing behind", async () => {
    const { port, end } = await stuck("127.0.0.1", 1000);
    ends.push(end);
    const rows: Row[] = [];
    const kernel = new KernelSource({ intervalMs: 100, ledger: new Ledger() });
    ends.push(() => kernel.stop());
    const frame = (_: string, one: Frame): boolean => rows.push(...rowsOf(one)) > 0;
    await kernel.start({ frame, message: () => {} }, new AbortController().signal);
    const before = bpfHoldings();
    kernel.turnOn("connections", 60_000);
    const unread = `tcp.peer.connection.receive_queue;network.connection.state=established;network.local.port=${port};network.peer.address=127.0.0.1`;
    await eventually(() => {
      const found = rows.filter(({ metric, value }) => metric.startsWith(unread) && value === 1000);
      expect(found.length).toBeGreaterThanOrEqual(2);
      expect(rows.some(({ metric }) => metric.includes(`network.peer.port=${port}`))).toBe(true);
    });
    const status = () => kernel.probes().find(({ name }) => name === "connections");
    expect(status()).toMatchObject({ state: "on", onDemand: true });
    kernel.turnOff("connections");
    expect(status()?.state).toBe("stopped");
    // While the kernel counts what it costs, that is a descriptor, too.
    await eventually(() => expect(bpfHoldings()).toEqual(before));
  });

  test.skipIf(missing !== "" || process.getuid?.() !== 0 || !has("setpriv"))(
    "two capabilities are enough for the iterator; without them sock_diag is read, and the reason said",
    () => {
      const script = `import { openConnections } from ${JSON.stringify(join(root, "src/addon/connections.ts"))};
        const { table } = openConnections(); table.read(); console.log(table.via, table.why?.reason);`;
      const asNobody = (capabilities: string): string =>
        spawnSync(
          "setpriv",
          [
            ...["--reuid=65534", "--regid=65534", "--clear-groups"],
            ...[`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`],
            ...[process.execPath, "--input-type=module", "-e", script],
          ],
          { encoding: "utf8", cwd: "/" },
        ).stdout;
      expect(asNobody("-all,+bpf,+perfmon")).toBe("iterator undefined\n");
      expect(asNobody("-all")).toBe("sock_diag CAP_BPF and CAP_PERFMON missing\n");
    },
  );
});
