/** Uplinks over TLS, to a real mosquitto with certificates made here. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MqttUplink } from "../../src/uplink/mqtt.ts";
import { uplinkSchema } from "../../src/uplink/options.ts";
import { Mosquitto } from "../faults/harness/mosquitto.ts";
import { Agent, AgentFolder, hasProgram } from "../helpers/agent.ts";
import { selfSigned } from "../helpers/certificate.ts";
import { ScriptedBroker } from "../helpers/scripted-broker.ts";
import { until } from "../helpers/until.ts";

const missing = ["mosquitto", "openssl"].filter((name) => !hasProgram(name));

describe.skipIf(missing.length > 0)(
  `uplinks over TLS${missing.length > 0 ? ` (lacking ${missing.join(", ")})` : ""}`,
  () => {
    const dir = mkdtempSync(join(tmpdir(), "weir-uplink-tls-"));
    const at = (name: string): string => join(dir, name);
    let broker: Mosquitto;
    let folder: AgentFolder;
    let agent: Agent;

    beforeAll(async () => {
      for (const name of ["server", "client", "other"]) selfSigned(dir, name);
      broker = await Mosquitto.start({
        more: [
          `certfile ${at("server.pem")}`,
          `keyfile ${at("server.key")}`,
          `cafile ${at("client.pem")}`,
          "require_certificate true",
        ],
      });
      const url = `mqtts://127.0.0.1:${broker.port}`;
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
      await broker.remove();
      folder.remove();
      rmSync(dir, { recursive: true, force: true });
    });

    const part = async (name: string) =>
      (await folder.api.status()).parts.find((one) => one.name === `uplink ${name}`);
    const isOn = (name: string) =>
      until(`${name} to connect`, async () => (await part(name))?.state === "on");
    const reason = (name: string, text: string) =>
      until(`${name}: ${text}`, async () => (await part(name))?.reason?.includes(text));

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

    test("TLS 1.3 where the broker has it, 1.2 where not, nothing less; and the protocol that is named by ALPN", async () => {
      const server = { cert: readFileSync(at("server.pem")), key: readFileSync(at("server.key")) };
      const status = {
        topic: "w/gw/status",
        payload: Buffer.from("{}"),
        qos: 1 as const,
        retain: true,
        contentType: undefined,
        userProperties: undefined,
      };
      const offered: (string | undefined)[] = [];
      for (const maxVersion of ["TLSv1.3", "TLSv1.2", "TLSv1.1"] as const) {
        // OpenSSL speaks 1.1 at security level 0 alone.
        const old = { minVersion: "TLSv1", maxVersion, ciphers: "DEFAULT@SECLEVEL=0" } as const;
        const peer = await ScriptedBroker.start({}, 0, { ...server, ...old, ALPNProtocols: ["mqtt"] });
        const tls = { ca: at("server.pem"), alpn: "mqtt" };
        const options = uplinkSchema.parse({ url: peer.url, tls });
        const uplink = new MqttUplink("up", options, { gateway: "gw", status: () => status, log: () => {} });
        await uplink.start(new AbortController().signal);
        await until("an answer", () => uplink.connected || uplink.lastError !== undefined);
        offered.push(uplink.connected ? peer.connections[0]?.security : uplink.lastError);
        await uplink.stop();
        await peer.stop();
      }
      expect(offered).toEqual([
        "TLSv1.3 mqtt",
        "TLSv1.2 mqtt",
        expect.stringMatching(/protocol version|unsupported/),
      ]);
    });
  },
);
