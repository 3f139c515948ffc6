import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { defaultGatewayName } from "../../src/config/gateway.ts";
import { loadConfig } from "../../src/config/load.ts";
import { hashPassword } from "../../src/core/password.ts";
import { lookAround } from "../../src/machine.ts";
import { Agent, AgentFolder, weir } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

/** Secrets that no output may hold. */
const CANARIES = [
  "canary-in-weir-yaml",
  "canary-in-a-file",
  "canary-in-the-environment",
  "canary-of-a-plugin",
];

describe("a running agent, looked into", () => {
  const folder = new AgentFolder({
    sources: { kernel: { enabled: false }, system: { enabled: false } },
    uplinks: {
      one: { url: "mqtt://127.0.0.1:9", username: "u", password: CANARIES[0] },
      two: { url: "mqtt://127.0.0.1:9", username: "u", password: "$" + "{file:two.password}" },
      three: { url: "mqtt://127.0.0.1:9", username: "u", password: "$" + "{THREE_PASSWORD}" },
    },
    plugins: { missing: { config: { nested: [{ api_key: CANARIES[3] }] } } },
  });
  let agent: Agent;
  beforeAll(async () => {
    process.env["THREE_PASSWORD"] = CANARIES[2];
    writeFileSync(join(folder.dir, "two.password"), `${CANARIES[1]}\n`, { mode: 0o600 });
    cpSync("plugins/deadband", join(folder.dir, "plugins", "deadband"), { recursive: true });
    agent = await Agent.start(folder, ["sh", "-c", 'ulimit -S -c unlimited && exec "$@"', "sh"]);
    const device = await agent.client();
    await device.publishAsync("devices/pump-1/t", '{"temp_c":1,"rpm":2}', { qos: 1 });
    await device.publishAsync("devices/pump-1/t", "{canary-payload", { qos: 1 });
    await device.endAsync();
  });
  afterAll(async () => {
    await agent.kill();
    folder.remove();
    delete process.env["THREE_PASSWORD"];
  });
  const at = ["--config", folder.config];

  test("a support bundle has what helps, and neither secrets nor payloads; nor has any other output", async () => {
    const file = join(folder.dir, "bundle.tar.gz");
    expect(weir("diag", "-o", file, ...at)).toMatchObject({ status: 0 });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const into = mkdtempSync(join(tmpdir(), "weir-diag-"));
    execFileSync("tar", ["-xzf", file, "-C", into]);
    const bundle = execFileSync("grep", ["-r", "", join(into, "weir-diag")], {
      encoding: "utf8",
      maxBuffer: 2 ** 26,
    });
    rmSync(into, { recursive: true });
    for (const part of [
      "status.json",
      "ledger.json",
      "config.yaml",
      "check.json",
      "log.json",
      "machine.json",
    ])
      expect(bundle).toContain(`weir-diag/${part}:`);
    expect(bundle).not.toContain("canary-payload");
    await until("the uplinks to have failed", () => agent.output.includes("uplink three"));
    const printed = weir("config", "print", ...at).stdout;
    expect(printed).toContain("(hidden)");
    const processes = spawnSync("ps", ["-eww", "-o", "args"], { encoding: "utf8" }).stdout;
    const log = (await folder.api.logLines()).join("\n");
    const { http, pid } = await folder.api.status();
    const pages = await Promise.all(
      [
        "metrics",
        "readyz",
        ...["status", "ledger", "plugins", "outbox", "probes"].map((one) => `api/v1/${one}`),
      ].map(async (page) => await (await fetch(`http://${http}/${page}`)).text()),
    );
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    const environments = children.map((child) => readFileSync(`/proc/${child}/environ`, "utf8"));
    const seen = [bundle, agent.output, printed, processes, log, ...pages, ...environments].join("\n");
    for (const canary of CANARIES) expect(seen).not.toContain(canary);
    // What is kept for a start with broken files has what the files have: references, not what they stand for.
    const kept = join(folder.dir, "data", "last-good.json");
    expect(statSync(kept).mode & 0o777).toBe(0o600);
    for (const canary of CANARIES.slice(1, 3)) expect(readFileSync(kept, "utf8")).not.toContain(canary);
  });

  test("neither the agent nor its plugin host dumps core, whatever the shell allows", async () => {
    const { pid } = await folder.api.status();
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    expect(children.length).toBeGreaterThan(0);
    for (const one of [pid, ...children]) {
      expect(readFileSync(`/proc/${one}/limits`, "utf8"), String(one)).toMatch(/^Max core file size +0 +0 /m);
    }
  });

  test("check has a remedy for every finding that is not good, and sees what others may read", () => {
    chmodSync(join(folder.dir, "two.password"), 0o644);
    const findings: { subject: string; state: string; what: string; remedy?: string }[] = JSON.parse(
      weir("check", "--json", ...at).stdout,
    );
    for (const { subject, state, remedy } of findings)
      if (state !== "good") expect(remedy?.length, subject).toBeGreaterThan(5);
    const secret = findings.find(
      ({ subject, what }) => subject === "secrets" && what.includes("two.password"),
    );
    expect(secret).toMatchObject({ state: "warn", remedy: expect.stringContaining("chmod") });
    expect(findings.find(({ subject }) => subject === "agent")?.state).toBe("good");
  });

  test("top --once shows rates and troubles; its JSON has the figures", () => {
    expect(weir("top", "--once", "--interval", "0.2", ...at).stdout).toContain("! uplink one: ");
    const figures = JSON.parse(weir("top", "--once", "--json", "--interval", "0.2", ...at).stdout);
    expect(figures).toMatchObject({
      gateway: "gw",
      troubles: expect.any(Array),
      openFds: expect.any(Number),
    });
  });

  test("a profile of the agent itself, and its heap", () => {
    const file = join(folder.dir, "self.cpuprofile");
    expect(weir("profile", "--self", "--for", "1s", "-o", file, ...at)).toMatchObject({ status: 0 });
    expect(JSON.parse(readFileSync(file, "utf8")).nodes.length).toBeGreaterThan(1);
    expect(JSON.parse(weir("profile", "--self", "--heap", ...at).stdout).usedHeapSize).toBeGreaterThan(1e6);
  });

  test("tail shows the chosen devices, metrics and streams alone", async () => {
    const shown = await spawnTail("--stream", "data", "--device", "pump-*", "--metric", "temp*", "-n", "1");
    expect(JSON.parse(shown)).toMatchObject({
      stream: "data",
      device: "pump-2",
      values: { temp_c: 7 },
    });
  });

  test("tail says what it needs where the broker has identities, and takes it", async () => {
    const guarded = new AgentFolder({
      sources: { kernel: { enabled: false }, system: { intervalMs: 300 } },
      broker: {
        port: 0,
        identities: {
          watcher: {
            passwordHash: await hashPassword(Buffer.from("sesame")),
            subscribe: ["weir/#"],
            publish: [],
          },
          pump: {
            passwordHash: await hashPassword(Buffer.from("pump")),
            subscribe: [],
            publish: ["devices/pump/#"],
          },
        },
      },
    });
    const running = await Agent.start(guarded);
    try {
      const here = ["--config", guarded.config, "-n", "1"];
      writeFileSync(join(guarded.dir, "sesame"), "sesame\n");
      writeFileSync(join(guarded.dir, "pump"), "pump\n");
      const as = (name: string, file: string) =>
        weir("tail", "--username", name, "--password-file", join(guarded.dir, file), ...here);
      for (const refused of [weir("tail", ...here), as("watcher", "pump"), as("pump", "pump")]) {
        expect(refused).toMatchObject({ status: 2, stderr: expect.stringContaining("--username") });
      }
      expect(as("watcher", "sesame")).toMatchObject({ status: 0, stdout: expect.stringMatching(/\S/) });
    } finally {
      await running.kill();
      guarded.remove();
    }
  });

  /** Runs tail beside a device that publishes until it has seen what it was to. */
  async function spawnTail(...args: string[]): Promise<string> {
    const device = await agent.client();
    const publishing = setInterval(() => {
      device.publish("devices/other/t", '{"temp_c":9}', { qos: 1 });
      device.publish("devices/pump-2/t", '{"temp_c":7,"rpm":3}', { qos: 1 });
    }, 50);
    const child = spawn("bin/weir", ["tail", "--json", ...args, ...at], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    await new Promise((done) => child.once("close", done));
    clearInterval(publishing);
    await device.endAsync();
    return text;
  }
});

const root = process.getuid?.() === 0;

describe("init", () => {
  test.skipIf(!root)(
    "makes a broker that has the port a source, and takes another port itself (needs root for a namespace)",
    () => {
      const dir = mkdtempSync(join(tmpdir(), "weir-init-"));
      const file = join(dir, "weir.yaml");
      const broker = `require("net").createServer().listen(1883, "127.0.0.1", () => {
      const { status } = require("child_process").spawnSync(process.argv[1], ["init", process.argv[2]]);
      process.exit(status);
    })`;
      const inside = `ip link set lo up && exec "$0" -e '${broker}' "$@"`;
      // The listener accepts by itself: the kernel answers while its process waits.
      const made = spawnSync(
        "unshare",
        ["-n", "sh", "-c", inside, process.execPath, resolve("bin/weir"), file],
        {
          encoding: "utf8",
        },
      );
      expect(`${made.status} ${made.stderr}`).toBe("0 ");
      const { broker: own, sources } = loadConfig(file, {}).config;
      expect(own).toMatchObject({ enabled: true, port: 1884, host: "127.0.0.1" });
      // Its devices are found as those of the embedded broker are.
      expect(sources.mqtt["here"]).toMatchObject({ url: "mqtt://127.0.0.1:1883", rules: sources.devices });
      rmSync(dir, { recursive: true });
    },
  );

  test("leaves the port to the broker of an agent that runs here", async () => {
    const { text } = await lookAround("127.0.0.1:1883");
    expect(parse(text)).toMatchObject({ broker: { port: 1883 } });
    expect(text).not.toContain("mqtt://");
  });

  test("writes a valid configuration with comments, and never overwrites", () => {
    const dir = mkdtempSync(join(tmpdir(), "weir-init-"));
    mkdirSync(join(dir, "etc"));
    const file = join(dir, "etc", "weir.yaml");
    expect(weir("init", file).status).toBe(0);
    expect(loadConfig(file, {}).config.gateway.name).toBe(defaultGatewayName());
    const text = readFileSync(file, "utf8");
    expect(text.split("\n").filter((one) => one.trim().startsWith("#")).length).toBeGreaterThan(10);
    const again = weir("init", file);
    expect(again.status).toBe(2);
    expect(again.stderr).toContain("left as it is");
    expect(readFileSync(file, "utf8")).toBe(text);
    rmSync(dir, { recursive: true });
  });
});
