/** Faults of the network itself, in a namespace of its own: packets that are lost, and a line that is slow. */
import { spawnSync } from "node:child_process";
import { setTimeout } from "node:timers/promises";
import { afterAll } from "vitest";
import { FarNetwork } from "./harness/netns.ts";
import { fault, long } from "./harness/world.ts";

const far = new FarNetwork();
const lacks = far.make();
const rules = (text: string): string => `nft '${text}'`;
const table = rules("add table inet weir; add chain inet weir in { type filter hook input priority 0; }");
const noNft = lacks ?? (far.can(table) ? undefined : "nftables");
const shape = `tc qdisc add dev ${far.far} root tbf rate 64kbit burst 1600 limit 30000`;
const noTbf = lacks ?? (far.can(shape) && far.can(`tc qdisc del dev ${far.far} root`) ? undefined : "tc tbf");
afterAll(() => far.remove());

/** Weir crosses the cable; the judge sits with the broker. */
const beyond = {
  direct: `mqtt://${far.host}:18830`,
  broker: { host: "0.0.0.0", port: 18_830, wrap: far.wrap },
  judgeUrl: "mqtt://127.0.0.1:18830",
  judgeWrap: far.wrap,
};

fault("30 % of packets lost", { ...beyond, needs: ["nft"], lacks: noNft }, async () => {
  far.exec(rules(`add rule inet weir in iifname ${far.far} tcp dport 18830 numgen random mod 100 < 30 drop`));
  await setTimeout(long(60_000, 6_000));
  far.exec(rules("flush chain inet weir in"));
  return undefined;
});

fault(
  "64 kbit/s",
  { ...beyond, needs: ["tc"], lacks: noTbf, load: { perSecond: 20 }, uplink: { ackTimeoutMs: 60_000 } },
  async () => {
    const slow = "root tbf rate 64kbit burst 1600 limit 30000";
    // Both ways: what Weir sends, and what comes back.
    spawnSync("sh", ["-c", `tc qdisc add dev ${far.near} ${slow}`]);
    far.exec(`tc qdisc add dev ${far.far} ${slow}`);
    await setTimeout(long(60_000, 6_000));
    spawnSync("sh", ["-c", `tc qdisc del dev ${far.near} root`]);
    far.exec(`tc qdisc del dev ${far.far} root`);
    return undefined;
  },
);

fault(
  "the cable pulled out, and put back",
  { ...beyond, lacks, uplink: { ackTimeoutMs: 3_000 } },
  async () => {
    far.exec(`ip link set ${far.far} down`);
    await setTimeout(long(45_000, 4_000));
    far.exec(`ip link set ${far.far} up`);
    return undefined;
  },
);
