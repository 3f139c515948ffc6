/** What manifests, options, patterns and checks accept, and what they refuse. */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { matcher, mayPublish } from "../../src/core/glob.ts";
import { bindingOf } from "../../src/plugins/binding.ts";
import { COMPONENT_BYTES, readComponent } from "../../src/plugins/component-file.ts";
import { type Candidate, discover } from "../../src/plugins/discover.ts";
import { pluginFiles } from "../../src/plugins/files.ts";
import { laneOf } from "../../src/plugins/lane-of.ts";
import { mergeLimits } from "../../src/plugins/limits.ts";
import { mergeConfig, parseManifest } from "../../src/plugins/manifest.ts";
import { capMemories } from "../../src/plugins/memory-cap.ts";
import { autoLanes, pluginsSchema } from "../../src/plugins/options.ts";
import { UNNAMED } from "../../src/plugins/settings.ts";
import { Versions, versionOf } from "../../src/plugins/versions.ts";
import { VETTER } from "../../src/plugins/vet.ts";
import { checkContract, checkPreamble } from "../../src/plugins/vet-checks.ts";
import { openFolder } from "../helpers/lane.ts";

const minimal = "name: x\nversion: 1.0.0\ncomponent: x.wasm\n";

describe("a manifest", () => {
  test("needs a name, a version and a component; the rest has defaults", () => {
    expect(parseManifest(minimal)).toMatchObject({
      needs: { state: false, publish: [], alarm: false },
      onFailure: "bypass",
      scheduleMs: 60_000,
    });
  });

  test.each([
    ["an unknown key", `${minimal}colour: red`, 'Unrecognized key: "colour"'],
    ["an unknown limit", `${minimal}limits: { cpu: 1 }`, "limits"],
    ["a limit out of range", `${minimal}limits: { memoryMiB: 99999 }`, "limits.memoryMiB"],
    ["a component elsewhere", minimal.replace("x.wasm", "../x.wasm"), "component"],
    ["a key of the plugins section as its name", minimal.replace("name: x", "name: lanes"), "name"],
    ["a decoder's name", minimal.replace("name: x", "name: cbor"), "name"],
    [
      "an alias bomb",
      `a: &a [1,1]\nb: &b [${"*a,".repeat(30)}1]\nc: [${"*b,".repeat(30)}1]\n${minimal}`,
      "plugin.yaml",
    ],
    ["what isn't YAML", "name: [", "plugin.yaml"],
  ])("with %s is refused, with the path", (_, text, reason) => {
    expect(() => parseManifest(text)).toThrow(reason);
  });

  test("gives way to the operator, limit by limit", () => {
    const { limits } = parseManifest(`${minimal}limits: { timeMs: 10, memoryMiB: 8 }`);
    expect(mergeLimits({ timeMs: 20 }, limits)).toMatchObject({
      timeMs: 20,
      memoryMiB: 8,
      outputRows: 65_536,
    });
  });

  test("whose schema has a pattern that backtracks without end is refused, and the agent goes on", () => {
    const manifest = parseManifest(
      `${minimal}config: { a: ${"a".repeat(60)}! }\nconfigSchema: { type: object, properties: { a: { type: string, pattern: '^(a+)+$' } } }`,
    );
    expect(() => mergeConfig(manifest, {})).toThrow(/takes longer than \d+ ms to check/);
  });

  test.each([
    ["to itself", "{ $ref: '#' }"],
    [
      "that branch again and again",
      `{ properties: { a: { $ref: '#/$defs/d0' } }, $defs: { ${Array.from({ length: 40 }, (_, i) => `d${i}: { anyOf: [{ $ref: '#/$defs/d${i + 1}' }, { $ref: '#/$defs/d${i + 1}' }] }`).join(", ")}, d40: { type: number } } }`,
    ],
  ])("whose schema has references %s is refused", (_, schema) => {
    const manifest = parseManifest(`${minimal}config: { a: "$ref" }\nconfigSchema: ${schema}`);
    expect(() => mergeConfig(manifest, {})).toThrow("$ref is not taken");
  });

  test("with tens of thousands of keys is refused before long", () => {
    const keys = Array.from({ length: 26_000 }, (_, i) => `key${i}: 1`).join("\n");
    expect(() => parseManifest(keys)).toThrow("plugin.yaml");
  });

  test("checks the merged configuration with its own schema", () => {
    const manifest = parseManifest(
      `${minimal}config: { band: 1, keep: true }\nconfigSchema: { type: object, additionalProperties: false, properties: { band: { type: number }, keep: { type: boolean } } }`,
    );
    expect(JSON.parse(mergeConfig(manifest, { band: 2 }))).toEqual({ band: 2, keep: true });
    expect(() => mergeConfig(manifest, { band: "2" })).toThrow("config: band");
    expect(() => mergeConfig(manifest, { extra: 1 })).toThrow("config");
  });
});

describe("the plugins section", () => {
  test("is dir and a part for each plugin, by name", () => {
    const { dir, plugins } = pluginsSchema.parse({ deadband: { config: { band: 1 } } });
    expect(dir).toBe("./plugins");
    const [options] = plugins.values();
    expect(options).toMatchObject({
      enabled: true,
      order: 0,
      grant: { state: true, alarm: true, publish: [] },
    });
  });

  test.each([
    { lanes: 0 },
    { lanes: 17 },
    { lanes: {} },
    { senml: {} },
    { "Bad Name": {} },
    { x: { colour: "red" } },
    { x: { grant: { publish: ["a/#/b"] } } },
  ])("refuses %j", (section) => expect(pluginsSchema.safeParse(section).success).toBe(false));

  test("binds sample plugins to demonstration devices, others to every device of device streams", () => {
    const [options] = pluginsSchema.parse({ x: {} }).plugins.values();
    if (options === undefined) throw new Error("no options");
    expect(bindingOf("scale", options)).toEqual({
      sources: ["devices"],
      devices: ["demo-*"],
      metrics: ["*"],
    });
    expect(bindingOf("x", options).devices).toEqual(["*"]);
  });

  test("says nothing of a plugin it doesn't name: that one gets what an empty part gives", () => {
    expect(pluginsSchema.parse({ x: {} }).plugins.get("x")).toEqual(UNNAMED);
  });
});

describe("patterns", () => {
  test("match as the regular expression of the same meaning does", () => {
    const piece = fc.stringMatching(/^[ab*.]{0,6}$/);
    fc.assert(
      fc.property(piece, fc.stringMatching(/^[ab.]{0,8}$/), (pattern, name) => {
        const source = pattern.replaceAll(".", "\\.").replaceAll(/\*+/g, ".*");
        expect(matcher([pattern])(name)).toBe(new RegExp(`^${source}$`).test(name));
      }),
      { numRuns: 3_000 },
    );
  });

  test("take no time to speak of for names made to take long", () => {
    // Of this thread's own time: others may have the processor meanwhile.
    const before = process.threadCpuUsage();
    expect(matcher([`${"*a".repeat(60)}*b`])("a".repeat(256))).toBe(false);
    const { user, system } = process.threadCpuUsage(before);
    expect(user + system).toBeLessThan(50_000);
  });

  test.each([
    ["a/+/c", "a/b/c", true],
    ["a/+", "a/b/c", false],
    ["a/#", "a/b/c", true],
    ["#", "a", true],
    ["a/b", "a/b/c", false],
    ["a/b/c", "a/b", false],
    ["+", "a", true],
  ])("of topics: %s and %s: %s", (filter, topic, expected) => {
    expect(mayPublish([filter], topic)).toBe(expected);
  });
});

describe("the plugins folder", () => {
  let dir: string;
  beforeAll(() => {
    dir = openFolder("weir-discover-");
    const component = new Uint8Array([0, 0x61, 0x73, 0x6d]);
    writeFileSync(join(dir, "bare.wasm"), component);
    writeFileSync(join(dir, "README.md"), "not a plugin");
    writeFileSync(join(dir, ".hidden.wasm"), component);
    writeFileSync(join(dir, "Odd Name.wasm"), component);
    symlinkSync("bare.wasm", join(dir, "linked.wasm"));
    writeFileSync(join(dir, "huge.wasm"), "");
    truncateSync(join(dir, "huge.wasm"), COMPONENT_BYTES + 1);
    spawnSync("mkfifo", [join(dir, "fifo.wasm")]);
    const folders = ["whole", "empty", "renamed", "lost", "linking", "empty.wasm"];
    for (const name of folders) mkdirSync(join(dir, name));
    writeFileSync(join(dir, "whole.wasm"), component);
    writeFileSync(Buffer.concat([Buffer.from(join(dir, "x")), Buffer.of(0xff)]), component);
    const manifest = (name: string) => minimal.replaceAll("x", name);
    writeFileSync(join(dir, "whole/plugin.yaml"), manifest("whole"));
    writeFileSync(join(dir, "whole/whole.wasm"), component);
    writeFileSync(join(dir, "renamed/plugin.yaml"), manifest("other"));
    writeFileSync(join(dir, "lost/plugin.yaml"), manifest("lost"));
    writeFileSync(join(dir, "linking/plugin.yaml"), manifest("linking"));
    symlinkSync("../bare.wasm", join(dir, "linking/linking.wasm"));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test("gives folders and bare files, and refuses everything odd with the reason", async () => {
    const { candidates, refused } = await discover(dir);
    expect(candidates.map(({ name }) => name)).toEqual(["bare", "whole"]);
    const reasons = Object.fromEntries(refused.map(({ name, reason }) => [name, reason]));
    expect(reasons).toEqual({
      linked: "is a link",
      "Odd Name": expect.stringContaining("expected 1 to 64"),
      huge: expect.stringContaining("the limit is"),
      fifo: expect.stringContaining("not a regular file"),
      empty: "has no plugin.yaml",
      "empty.wasm": "has no plugin.yaml",
      "whole.wasm": "the folder of this name is the plugin",
      "x\uFFFD": "its name is not UTF-8",
      renamed: "plugin.yaml calls it other, its folder renamed",
      lost: "lost.wasm is missing",
      linking: expect.stringContaining("is a link"),
    });
  });

  test("a component is read when it is asked for, and is refused when it is another one by then", async () => {
    const big = Buffer.alloc(1_000_000, 7);
    writeFileSync(join(dir, "bare.wasm"), big);
    const { candidates } = await discover(dir);
    const bare = candidates.find(({ name }) => name === "bare");
    const hash = createHash("sha256").update(big).digest("hex");
    expect(bare).toMatchObject({ hash, path: join(dir, "bare.wasm") });
    expect(big.equals(await readComponent(join(dir, "bare.wasm"), hash))).toBe(true);
    big[999_999] = 8;
    writeFileSync(join(dir, "bare.wasm"), big);
    await expect(readComponent(join(dir, "bare.wasm"), hash)).rejects.toThrow("has changed");
  });

  test("that isn't there holds no plugins", async () => {
    expect(await discover(join(dir, "absent"))).toEqual({ isKnown: true, candidates: [], refused: [] });
  });

  test("that can't be read is not taken for an empty one", async () => {
    const { isKnown, refused } = await discover(join(dir, "README.md"));
    expect([isKnown, refused[0]?.reason]).toEqual([false, expect.stringContaining("ENOTDIR")]);
  });
});

describe("versions", () => {
  const dir = openFolder("weir-versions-");
  const kept = new Map<string, string>();
  const versions = new Versions(join(dir, "store"), pluginFiles, {
    load: async (key) => kept.get(key),
    save: async (key, value) => void (value === undefined ? kept.delete(key) : kept.set(key, value)),
  });
  const version = (number: number): Candidate => {
    const path = join(dir, `${number}.wasm`);
    writeFileSync(path, Uint8Array.of(number));
    const hash = createHash("sha256").update(Uint8Array.of(number)).digest("hex");
    return { name: "x", manifest: parseManifest(minimal), hash, path };
  };
  const [first, second, third] = [version(1), version(2), version(3)];
  /** What a rollback goes to. */
  const target = async () => await versions.before(await versions.decision("x"));
  const pin = async (to: Candidate, dropped: Candidate) => {
    const decision = await versions.decision("x");
    const why = "rolled back";
    await versions.decide("x", { ...decision, pin: { to: versionOf(to), dropped: versionOf(dropped), why } });
  };
  beforeEach(() => kept.clear());
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test("one that is dropped anew is the latest again: what is gone back to is what ran before it", async () => {
    for (const each of [first, second, first]) await versions.ran(each);
    expect(await target()).toBe(versionOf(second));
  });

  test("a pinned one keeps its place, and gives way as the latest when another file is dropped", async () => {
    for (const each of [first, second, third]) await versions.ran(each);
    await pin(second, third);
    await versions.ran(second);
    expect(await target()).toBe(versionOf(first));
    expect((await versions.dropped(third)).pin).toBeDefined();
    await versions.dropped(first);
    expect(await versions.decision("x")).toEqual({
      disabled: false,
      history: [second, third, first].map(versionOf),
    });
  });

  test("of a plugin that was removed stay for a while, and one that is gone is not gone back to", async () => {
    await versions.ran(first);
    await versions.prune([]);
    await versions.ran(second);
    expect(await target()).toBe(versionOf(first));
    await versions.ran(third);
    rmSync(join(dir, "store", versionOf(second)), { recursive: true });
    expect(await target()).toBe(versionOf(first));
    await versions.ran(second);
    await versions.ran(third);
    expect(await target()).toBe(versionOf(second));
    for (let number = 10; number < 20; number++) await versions.ran({ ...version(number), name: "y" });
    await versions.prune(["y"]);
    expect(readdirSync(join(dir, "store")).length).toBeLessThanOrEqual(12);
  });
});

describe("memory limits of a core module", () => {
  const module = (...memory: number[]) =>
    Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 5, memory.length, ...memory]);

  test("are rewritten to the cap, and a smaller one is kept", () => {
    expect([...capMemories(module(1, 0, 1), 1).bytes.subarray(8)]).toEqual([5, 4, 1, 1, 1, 16]);
    expect([...capMemories(module(1, 1, 1, 200, 1), 1).bytes.subarray(8)]).toEqual([5, 4, 1, 1, 1, 16]);
    expect([...capMemories(module(1, 1, 1, 3), 1).bytes.subarray(8)]).toEqual([5, 4, 1, 1, 1, 3]);
    const { bytes } = capMemories(module(1, 0, 1), 1024);
    expect([...bytes.subarray(8)]).toEqual([5, 6, 1, 1, 1, 0x80, 0x80, 1]);
  });

  test.each([
    ["a memory that begins above it", module(1, 0, 17)],
    ["a shared memory", module(1, 3, 1, 2)],
    ["a 64-bit memory", module(1, 4, 1)],
    ["a section that runs past the end", module(1, 0, 1).subarray(0, 11)],
    ["a forged count", module(0xff, 0xff, 0xff, 0xff, 0x0f)],
    ["a number without an end", module(1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)],
  ])("refuse %s", (_, bytes) => {
    expect(() => capMemories(bytes, 1)).toThrow();
  });
});

describe("the contract's check", () => {
  const wit = (...lines: string[]) =>
    `package root:component;\n\nworld root {\n${lines.map((line) => `  ${line}`).join("\n")}\n}`;
  const exports = ["weir:plugin/lifecycle@0.1.0", "weir:plugin/transform@0.1.7"];

  test("finds the full names of what is exported", () => {
    expect(checkContract(wit("import weir:plugin/log@0.1.0;"), [], [...exports, "init"])).toEqual({
      lifecycle: "weir:plugin/lifecycle@0.1.0",
      transform: "weir:plugin/transform@0.1.7",
    });
  });

  test.each([
    ["another version of an import", wit("import weir:plugin/log@0.2.0;"), [], exports],
    ["an interface of its own", wit("import helper: interface {"), [], exports],
    ["a function", wit("import run: func();"), [], exports],
    ["network", wit(), ["wasi:sockets/tcp"], exports],
    ["another version of an export", wit(), [], ["weir:plugin/lifecycle@0.1.0", "weir:plugin/timer@1.0.0"]],
  ])("refuses %s", (_, text, imports, names) => {
    expect(() => checkContract(text, imports, names)).toThrow();
  });

  test("takes components alone", () => {
    expect(() => checkPreamble(Uint8Array.from([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]))).not.toThrow();
    expect(() => checkPreamble(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]))).toThrow("core module");
    expect(() => checkPreamble(new TextEncoder().encode("(component)"))).toThrow("not WebAssembly");
  });
});

test("the cache's name changes with the transpiler's version", () => {
  const entry = createRequire(import.meta.url).resolve("@bytecodealliance/jco-transpile/component");
  const { version } = JSON.parse(readFileSync(join(dirname(dirname(entry)), "package.json"), "utf8"));
  expect(VETTER.endsWith(`-${version}`)).toBe(true);
});

describe("lanes", () => {
  const devices = Array.from({ length: 10_000 }, (_, i) => `hall/line-${i % 7}/press-${i}`);

  test("get about as many devices each", () => {
    for (const count of [2, 3, 4, 16]) {
      const sizes = new Array<number>(count).fill(0);
      for (const device of devices) sizes[laneOf(device, count)] = (sizes[laneOf(device, count)] ?? 0) + 1;
      for (const size of sizes)
        expect(Math.abs(size * count - devices.length)).toBeLessThan(devices.length / 5);
    }
  });

  test("one more takes over its share, and moves no other device", () => {
    for (const count of [1, 2, 3, 7]) {
      const moved = devices.filter((device) => laneOf(device, count) !== laneOf(device, count + 1));
      expect(moved.every((device) => laneOf(device, count + 1) === count)).toBe(true);
      expect(Math.abs(moved.length * (count + 1) - devices.length)).toBeLessThan(devices.length / 5);
    }
  });

  test("are one where the path itself needs every core, and at most four", () => {
    expect([1, 2, 4, 6, 64].map(autoLanes)).toEqual([1, 1, 1, 3, 4]);
  });
});

describe("what a plugin may publish on", () => {
  test.each([
    [["devices/+/set"], "devices/a/set", true],
    [["devices/+/set"], "devices/a/b/set", false],
    [["#"], "any/topic", true],
    [["#"], "", false],
    [["#"], "a/+", false],
    // Weir's own and the broker's only where a grant names them.
    [["#", "+/#"], "weir/v1/gw/data", false],
    [["#", "+/#"], "weir", false],
    [["#", "+/#"], "$SYS/broker", false],
    [["weir/v1/+/in/#"], "weir/v1/gw/in/cmd", true],
  ] as const)("%j: %s", (grants, topic, allowed) => {
    expect(mayPublish(grants, topic)).toBe(allowed);
  });
});
