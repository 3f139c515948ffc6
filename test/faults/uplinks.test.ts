/** Faults of one uplink beside a sound one, and of certificates. */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, expect } from "vitest";
import { hasProgram } from "../helpers/agent.ts";
import { freePort } from "../helpers/free-port.ts";
import { until } from "../helpers/until.ts";
import { Mosquitto } from "./harness/mosquitto.ts";
import { fault, long } from "./harness/world.ts";

const deadPort = await freePort();

fault(
  "one of two uplinks dead for long",
  { more: { dead: { url: `mqtt://127.0.0.1:${deadPort}`, streams: ["data"] } } },
  async (world) => {
    await setTimeout(long(60_000, 3_000));
    const { counts } = await world.folder.api.outbox();
    const held = (name: string): number =>
      counts.find(({ uplink, stream }) => uplink === name && stream === "data")?.held ?? -1;
    expect(held("dead")).toBeGreaterThan(held("cloud"));
    return `${held("dead")} samples wait for the dead one`;
  },
);

const dir = mkdtempSync(join(tmpdir(), "weir-tls-"));
chmodSync(dir, 0o755);
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const openssl = (...args: readonly string[]): void => {
  const done = spawnSync("openssl", args, { cwd: dir, encoding: "utf8" });
  if (done.status !== 0) throw new Error(done.stderr);
};
const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** A certificate `name` for `host`, signed by `ca`, valid for `days` from now; less than nothing: expired. */
function certificate(name: string, ca: string, host: string, days: number): void {
  openssl("req", ...key, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.csr`);
  spawnSync("sh", ["-c", `printf 'subjectAltName=${host}' > ${name}.ext`], { cwd: dir });
  const wrap = days < 0 ? ["faketime", "-f", `${days - 1}d`] : [];
  const [program = "openssl", ...rest] = [...wrap, "openssl"];
  const sign = [
    "x509",
    "-req",
    "-in",
    `${name}.csr`,
    "-CA",
    `${ca}.crt`,
    "-CAkey",
    `${ca}.key`,
    "-CAcreateserial",
  ];
  const done = spawnSync(
    program,
    [...rest, ...sign, "-days", "1", "-extfile", `${name}.ext`, "-out", `${name}.crt`],
    {
      cwd: dir,
      encoding: "utf8",
    },
  );
  if (done.status !== 0) throw new Error(done.stderr);
}

/** The broker's certificates that are to be refused, and what the reason says. */
const REFUSED = [
  ["expired", /expired/i],
  ["wrong host", /altnames|hostname|does not match/i],
  ["unknown CA", /issuer|self.signed|unable to/i],
  ["self-signed", /self.signed/i],
] as const;

const able = hasProgram("openssl") && hasProgram("faketime");
if (able) {
  for (const ca of ["ca", "other"])
    openssl(
      "req",
      "-x509",
      ...key,
      "-days",
      "30",
      "-subj",
      `/CN=${ca}`,
      "-keyout",
      `${ca}.key`,
      "-out",
      `${ca}.crt`,
    );
  certificate("sound", "ca", "IP:127.0.0.1", 1);
  certificate("expired", "ca", "IP:127.0.0.1", -30);
  certificate("wrong-host", "ca", "DNS:elsewhere.example", 1);
  certificate("unknown-CA", "other", "IP:127.0.0.1", 1);
  const alone = ["-days", "1", "-subj", "/CN=alone", "-addext", "subjectAltName=IP:127.0.0.1"];
  openssl("req", "-x509", ...key, ...alone, "-keyout", "self-signed.key", "-out", "self-signed.crt");
}

const tlsLines = (name: string): readonly string[] => {
  const file = join(dir, name.replaceAll(" ", "-"));
  return [`certfile ${file}.crt`, `keyfile ${file}.key`];
};

fault(
  "TLS: expired, wrong host, unknown CA, self-signed, then sound",
  {
    needs: ["openssl", "faketime"],
    // The uplink `tls` is the one that is tried; the judged one goes on beside it.
    more: {
      tls: { url: `mqtts://127.0.0.1:${deadPort}`, streams: ["data"], tls: { ca: join(dir, "ca.crt") } },
    },
  },
  async ({ folder }) => {
    const part = async (): Promise<{ readonly state: string; readonly reason: string }> => {
      const { parts } = await folder.api.status();
      const found = parts.find(({ name }) => name === "uplink tls");
      return { state: found?.state ?? "", reason: found?.reason ?? "" };
    };
    for (const [name, reason] of REFUSED) {
      const broker = await Mosquitto.start({ port: deadPort, more: tlsLines(name) });
      await until(`${name} to be refused with its reason`, async () => reason.test((await part()).reason));
      expect((await part()).state).toBe("failed");
      await broker.remove();
    }
    const broker = await Mosquitto.start({ port: deadPort, more: tlsLines("sound") });
    await until("the sound one to be accepted", async () => (await part()).state === "on");
    await broker.remove();
    return "each refused with its reason";
  },
);
