/** Uplinks over TLS, to a real mosquitto with certificates made here. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { until } from "../helpers/until.ts";

const missing = ["mosquitto", "openssl"].filter((name) => !hasProgram(name));

describe.skipIf(missing.length > 0)(
  `uplinks over TLS${missing.length > 0 ? ` (lacking ${missing.join(", ")})` : ""}`,
  () => {
    const dir = mkdtempSync(join(tmpdir(), "weir-uplink-tls-"));
    const at = (name: string): string => join(dir, name);
    let broker: ChildProcess;
    let port = 0;
    let folder: AgentFolder;
    let agent: Agent;

    /** A certificate signed by itself, for 127.0.0.1 unless another name is given. */
    function certificate(name: string, subject = "IP:127.0.0.1"): void {
      const key = `-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ${at(`${name}.key`)}`;
      const args = `req -x509 ${key} -days 2 -subj /CN=${name} -addext subjectAltName=${subject} -out ${at(`${name}.pem`)}`;
      const made = spawnSync("openssl", args.split(" "));
      if (made.status !== 0) throw new Error(String(made.stderr));
      chmodSync(at(`${name}.key`), 0o644);
    }

    beforeAll(async () => {
      chmodSync(dir, 0o755);
      for (const name of ["server", "client", "other"]) certificate(name);
      const server = createServer().listen(0, "127.0.0.1");
      await new Promise((done) => server.once("listening", done));
      const address = server.address();
      port = typeof address === "object" ? (address?.port ?? 0) : 0;
      await new Promise((done) => server.close(done));
      const lines = [
        `listener ${port} 127.0.0.1`,
        `certfile ${at("server.pem")}`,
        `keyfile ${at("server.key")}`,
        `cafile ${at("client.pem")}`,
        "require_certificate true",
        "allow_anonymous true",
      ];
      writeFileSync(at("mosquitto.conf"), `${lines.join("\n")}\n`);
      broker = spawn("mosquitto", ["-c", at("mosquitto.conf")], { stdio: "ignore" });
      const url = `mqtts://127.0.0.1:${port}`;
      // Replaced below: at first a certificate that the broker doesn't know.
      copyFileSync(at("other.pem"), at("renewed.pem"));
      copyFileSync(at("other.key"), at("renewed.key"));
      folder = new AgentFolder({
        sources: { kernel: { enabled: false }, system: { enabled: false } },
        uplinks: {
          good: { url, tls: { ca: at("server.pem"), cert: at("client.pem"), key: at("client.key") } },
          stranger: { url, clientId: "stranger", tls: { cert: at("client.pem"), key: at("client.key") } },
          wrongname: {
            url,
            clientId: "wrongname",
            tls: {
              ca: at("server.pem"),
              cert: at("client.pem"),
              key: at("client.key"),
              servername: "elsewhere.example",
            },
          },
          renewed: {
            url,
            clientId: "renewed",
            tls: { ca: at("server.pem"), cert: at("renewed.pem"), key: at("renewed.key") },
          },
          nofile: { url, clientId: "nofile", tls: { ca: at("missing.pem") } },
        },
      });
      agent = await Agent.start(folder);
    });
    afterAll(async () => {
      await agent.kill();
      broker.kill();
      folder.remove();
      rmSync(dir, { recursive: true, force: true });
    });

    const part = async (name: string) =>
      (await folder.api.status()).parts.find((one) => one.name === `uplink ${name}`);
    const isOn = (name: string) =>
      until(`${name} to connect`, async () => (await part(name))?.state === "on", 20_000);
    const reason = (name: string, text: string) =>
      until(`${name}: ${text}`, async () => (await part(name))?.reason?.includes(text), 10_000);

    test("a broker whose authority is named, and that wants a certificate, is connected to", async () => {
      await isOn("good");
    });

    test("one signed by nobody we trust is refused, and so is one for another host; a missing file is said", async () => {
      await reason("stranger", "self-signed");
      await reason("wrongname", "elsewhere.example");
      await reason("nofile", "missing.pem");
      expect((await part("good"))?.state).toBe("on");
    });

    test("a certificate that is renewed is used at the next connection, without a restart", async () => {
      await until("the refusal", async () => (await part("renewed"))?.state === "failed");
      copyFileSync(at("client.pem"), at("renewed.pem"));
      copyFileSync(at("client.key"), at("renewed.key"));
      await isOn("renewed");
    });
  },
);
