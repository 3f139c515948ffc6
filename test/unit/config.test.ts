import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadOrLastGood } from "../../src/config/choose.ts";
import { configJsonSchema } from "../../src/config/json-schema.ts";
import { keepLastGood, refuseWithout } from "../../src/config/last-good.ts";
import { loadConfig } from "../../src/config/load.ts";
import { redactor, secretsOf, withoutSecrets } from "../../src/config/secrets.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "weir-config-"));
  mkdirSync(join(dir, "conf.d"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const file = (): string => join(dir, "weir.yaml");
const write = (name: string, text: string): void => writeFileSync(join(dir, name), text);
const load = (environment: Record<string, string> = {}) => loadConfig(file(), environment);
const errorOf = (work: () => unknown): string => {
  try {
    work();
  } catch (thrown) {
    return String(thrown);
  }
  return "";
};

describe("files of the configuration", () => {
  test("conf.d is merged in the order of names: mappings by key, lists as a whole", () => {
    write("weir.yaml", "broker: {port: 1, host: 127.0.0.9}\nsources: {devices: [{topic: 'a/{device}'}]}\n");
    write("conf.d/20-b.yaml", "broker: {port: 3}\n");
    write("conf.d/10-a.yaml", "broker: {port: 2}\nsources: {devices: [{topic: 'b/{device}'}]}\n");
    write("conf.d/ignored.txt", "broker: {port: 9}\n");
    const { config, files } = load();
    expect(config.broker).toMatchObject({ port: 3, host: "127.0.0.9" });
    expect(config.sources.devices.map(({ topic }) => topic)).toEqual(["b/{device}"]);
    expect(files).toEqual(
      ["weir.yaml", "conf.d/10-a.yaml", "conf.d/20-b.yaml"].map((name) => join(dir, name)),
    );
  });

  test("all errors come at once, each with file, line, path, what was expected and what may have been meant", () => {
    write(
      "weir.yaml",
      "broker:\n  prot: 1883\noutbox:\n  sync: ful\nuplinks:\n  cloud:\n    url: embedded\n    batch: { sampels: 5 }\n",
    );
    write("conf.d/a.yaml", "\nbroker: { enabled: 7 }\n");
    const text = errorOf(() => load({ WEIR__PIPELINE__LINGERMS: "soon" }));
    expect(text).toContain(`${file()}:2: broker.prot: unknown key; did you mean "port"?`);
    expect(text).toContain(`${file()}:4: outbox.sync: expected one of "normal"|"full"; did you mean "full"?`);
    expect(text).toContain(`${file()}:8: uplinks.cloud.batch.sampels: unknown key; did you mean "samples"?`);
    expect(text).toContain(
      `${join(dir, "conf.d/a.yaml")}:2: broker.enabled: expected true or false, found a number`,
    );
    expect(text).toContain(
      "the environment variable WEIR__PIPELINE__LINGERMS: pipeline.lingerMs: expected a number, found text",
    );
  });

  const syntax: readonly (readonly [string, string | Uint8Array, string])[] = [
    ["a key that is there twice", "broker:\n  port: 1\nbroker: {}\n", ":3: the key broker is there twice"],
    ["a second document", "broker: {}\n---\nhttp: {}\n", ":2: a second document begins here"],
    ["tabs", "broker:\n\tport: 1\n", ":2: Tabs are not allowed as indentation"],
    ["a tag", "gateway: {name: !env HOST}\n", ":1: unknown tag !env: expected a plain value"],
    ["a mapping as key", "? [a, b]\n: 4\n", ":1: expected a plain text as key"],
    ["a bomb of brackets", "[".repeat(20_000), ":1: nested too deep"],
    [
      "a reference that YAML takes for a mapping",
      `broker: {port: \${PORT:-5}}\n`,
      "within { } or [ ] needs quotes",
    ],
    ["bytes that are no text", Uint8Array.of(0xff, 0xfe, 0x61, 0), ": not text in UTF-8"],
    ["what a power cut leaves", new Uint8Array(4096), ": not text: it has NUL bytes"],
    ["a number that is none", "broker: {port: .nan}\n", "expected a number, found one that is not finite"],
    ["a list", "- a\n", ": (top): expected a section (key: value), found a list"],
    [
      "a boolean of YAML 1.1",
      "broker: {enabled: yes}\n",
      'expected true or false, found text; did you mean "true"?',
    ],
    ["a number in quotes", "broker: {port: '1'}\n", "expected a number, found text: leave out the quotes"],
    ["text that is a number", "gateway: {name: 5}\n", "expected text, found a number: put it in quotes"],
    ["a number out of range", "broker: {port: 70000}\n", "broker.port: expected at most 65535"],
    ["a port for two", "broker: {port: 7780}\n", "http.port: broker.port is 7780, too"],
    ["a missing key", "uplinks: {c: {}}\n", "uplinks.c.url: missing: expected text"],
    ["a password in a url", "uplinks: {c: {url: 'mqtt://u:p@h'}}\n", "go to username and password"],
    [
      "a port that is none",
      "uplinks: {c: {url: 'mqtt://h:99999'}}\n",
      "uplinks.c.url: expected `embedded`, or",
    ],
    ["a number that is none of a few", "uplinks: {c: {url: 'mqtt://h', qos: 3}}\n", "expected one of 0|1|2"],
    [
      "a template's name that stands for nothing",
      "uplinks: {c: {url: 'mqtt://h', topics: {batch: 'x/{gatway}'}}}\n",
      "uplinks.c.topics.batch: {gatway} stands for nothing here: {gateway}, {stream} do",
    ],
    [
      "a template that all devices would share",
      "uplinks: {c: {url: 'mqtt://h', topics: {last: 'x/last'}}}\n",
      "uplinks.c.topics.last: needs {device}",
    ],
    [
      "a wildcard to publish on",
      "uplinks: {c: {url: 'mqtt://h', topics: {status: 'x/#'}}}\n",
      "uplinks.c.topics.status: messages are published on it",
    ],
    [
      "certificates where nothing is encrypted",
      "uplinks: {c: {url: 'mqtt://h', tls: {ca: ca.pem}}}\n",
      "uplinks.c.tls: nothing is encrypted on mqtt://",
    ],
    [
      "certificates for a source where nothing is encrypted",
      "sources: {mqtt: {c: {url: 'mqtt://h', tls: {ca: ca.pem}}}}\n",
      "sources.mqtt.c.tls: nothing is encrypted on mqtt://",
    ],
    [
      "a client id that two uplinks have at one broker",
      "uplinks: {a: {url: 'mqtt://h:1', clientId: x}, b: {url: 'mqtt://g', fallback: ['mqtt://h:1'], clientId: x}}\n",
      "uplinks.b.clientId: is a's at the same broker",
    ],
    [
      "a client id that two sources have at one broker",
      "sources: {mqtt: {a: {url: 'mqtt://h', clientId: x}, b: {url: 'mqtt://h', clientId: x}}}\n",
      "sources.mqtt.b.clientId: is a's at the same broker",
    ],
    [
      "a trace context that MQTT 3.1.1 can't carry",
      "uplinks: {c: {url: 'mqtt://h', version: 4, traceparent: true}}\n",
      "uplinks.c.traceparent: needs MQTT 5",
    ],
    [
      "a filter that no broker takes",
      "sources: {mqtt: {c: {url: 'mqtt://h', subscribe: ['a/#/b']}}}\n",
      "sources.mqtt.c.subscribe.0: the filter has # before its end",
    ],
    [
      "what a preset's broker has no topics for",
      "uplinks: {c: {preset: azure-iot-hub, url: 'mqtts://h', last: true}}\n",
      "uplinks.c.last: azure-iot-hub takes no topics but its own",
    ],
  ];
  test.each(syntax)("%s is told in words for whoever wrote it, in one line", (_what, text, expected) => {
    writeFileSync(file(), text);
    const said = errorOf(load);
    expect(said).toContain(expected);
    expect(said.trim().split("\n")).toHaveLength(1);
  });

  test("a folder in place of a file is said to be one", () => {
    mkdirSync(join(dir, "conf.d/a.yaml"));
    write("weir.yaml", "");
    expect(errorOf(load)).toContain(`${join(dir, "conf.d/a.yaml")}: is a folder`);
  });

  test("what comes from the environment or a file becomes what the option takes: number, boolean or text", () => {
    write("port", "1899\n");
    write("weir.yaml", `broker:\n  port: \${file:port}\n  enabled: \${ON}\n`);
    const { config } = load({
      ON: "false",
      WEIR__GATEWAY__NAME: "007",
      WEIR__UPLINKS__C: "{url: 'mqtt://h'}",
      WEIR__UPLINKS__C__PASSWORD: "0042",
      WEIR__HTTP__PORT: "7781",
    });
    expect(config.broker).toMatchObject({ port: 1899, enabled: false });
    expect(config.gateway.name).toBe("007");
    expect(config.uplinks["c"]?.password).toBe("0042");
    expect(config.http.port).toBe(7781);
    expect(errorOf(() => load({ ON: "maybe" }))).toContain(
      "broker.enabled: expected true or false, found text",
    );
  });

  test("a section whose keys are all commented out says nothing", () => {
    write("weir.yaml", "broker:\n#  port: 1\n");
    expect(load().config.broker.port).toBe(1883);
  });

  test("the JSON Schema knows the nested keys of maps", () => {
    const { properties } = configJsonSchema();
    expect(properties?.["uplinks"]?.additionalProperties).toMatchObject({
      properties: { url: { type: "string" } },
    });
  });
});

describe("secrets", () => {
  test("come from files, beside the configuration or in the credentials folder, without the final line end", () => {
    write("weir.yaml", `uplinks: { cloud: { url: 'mqtt://h', username: u, password: '\${file:pw}' } }\n`);
    write("pw", "hunter2-öß\n");
    const { config, files, secrets } = load();
    expect(config.uplinks["cloud"]?.password).toBe("hunter2-öß");
    expect(files).toContain(join(dir, "pw"));
    expect([...secrets]).toEqual(["hunter2-öß"]);
    write("conf.d/pw", "other\n");
    const other = load({ CREDENTIALS_DIRECTORY: join(dir, "conf.d") });
    expect(other.config.uplinks["cloud"]?.password).toBe("other");
  });

  test("that can't be read are an error of the option, which is not shown", () => {
    write("weir.yaml", `uplinks:\n  cloud: { url: 'mqtt://h', password: '\${file:/nowhere/pw}' }\n`);
    expect(errorOf(load)).toContain(
      `${file()}:2: uplinks.cloud.password: \${file:/nowhere/pw}: no such file`,
    );
  });

  test("are hidden by key anywhere, and by value in any text", () => {
    const config = {
      a: { password: "x1" },
      plugins: new Map([
        ["p", { apiToken: "t", tokens: ["a1", "b2"], "api-key": 1234, note: "see s3cret!" }],
        // A name that people choose is no secret, nor what stands under it.
        ["token-meter", { limit: 5, label: "hall" }],
      ]),
    };
    expect(withoutSecrets(config, new Set(["s3cret"]))).toEqual({
      a: { password: "(hidden)" },
      plugins: {
        p: {
          apiToken: "(hidden)",
          tokens: ["(hidden)", "(hidden)"],
          "api-key": "(hidden)",
          note: "see (hidden)!",
        },
        "token-meter": { limit: 5, label: "hall" },
      },
    });
    expect(secretsOf(config)).toEqual(["x1", "t", "a1", "b2"]);
    expect(redactor(['a"b\\c'])(JSON.stringify({ msg: 'is a"b\\c' }))).toBe('{"msg":"is (hidden)"}');
  });
});

describe("the last good configuration", () => {
  const keep = (): void => keepLastGood(dir, load());

  test("counts when the file is broken, and says why", () => {
    write("weir.yaml", `data: { dir: ${dir} }\nbroker: { port: 1885 }\n`);
    keep();
    write("weir.yaml", "broker: { port: 18");
    const { loaded, fallback } = loadOrLastGood(file(), {}, dir);
    expect(loaded.config.broker.port).toBe(1885);
    expect(fallback).toContain("weir.yaml:1");
    expect(fallback).toContain("last good configuration");
  });

  test("counts when the file has no byte, as on a full disk; a comment alone means defaults", () => {
    write("weir.yaml", "broker: { port: 1885 }\n");
    keep();
    write("weir.yaml", "");
    expect(loadOrLastGood(file(), {}, dir).loaded.config.broker.port).toBe(1885);
    write("weir.yaml", "# defaults\n");
    expect(loadOrLastGood(file(), {}, dir)).toMatchObject({ fallback: undefined });
  });

  test("is missed at a start without a file, which would drop what its uplinks hold; a comment alone means defaults", () => {
    write("weir.yaml", `data: { dir: ${dir} }\nbroker: { port: 1885 }\n`);
    keep();
    const without = { ...load(), file: undefined };
    expect(() => refuseWithout(without)).not.toThrow();
    rmSync(file());
    expect(errorOf(() => refuseWithout(without))).toContain(`${file()}: no such file`);
    expect(() => refuseWithout({ ...without, file: file() })).not.toThrow();
  });

  test("does not count when the file was taken away, or is another", () => {
    write("weir.yaml", "broker: { port: 1885 }\n");
    keep();
    rmSync(file());
    expect(errorOf(() => loadOrLastGood(file(), {}, dir))).toContain("no such file");
    write("other.yaml", "broker: 5\n");
    expect(errorOf(() => loadOrLastGood(join(dir, "other.yaml"), {}, dir))).toContain("other.yaml:1");
  });
});
