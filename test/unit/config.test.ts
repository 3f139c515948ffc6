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
      `${join(dir, "conf.d/a.yaml")}:2: broker.enabled: expected boolean, received number`,
    );
    expect(text).toContain(
      "the environment variable WEIR__PIPELINE__LINGERMS: pipeline.lingerMs: expected number, received string",
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
