/** Writes docs/errors.md, docs/configuration.md, docs/plugin-manifest.md and docs/metrics.md from the code; with --check only says whether they are up to date. */
import { readFileSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { configJsonSchema, type SchemaNode } from "../src/config/json-schema.ts";
import { ERRORS } from "../src/core/errors.ts";
import { DEFAULT_LIMITS } from "../src/plugins/limits.ts";
import { manifestSchema } from "../src/plugins/manifest.ts";
import { METRICS } from "../src/telemetry/metrics.ts";

const MADE = "<!-- Made by `npm run gen`: change the code, not this page. -->";

function errorsPage(): string {
  const rows = Object.entries(ERRORS).map(
    ([code, { disposition, what, remedy }]) => `| \`${code}\` | ${disposition} | ${what} | ${remedy} |`,
  );
  return [
    "# Errors",
    MADE,
    "",
    "Every error of Weir's own carries one of these codes. `retry`: Weir tries again by itself. `reject`: that input is set",
    "aside and counted. `fatal`: the agent can't go on.",
    "",
    "| code | disposition | what happened | what to do |",
    "| --- | --- | --- | --- |",
    ...rows,
    "",
  ].join("\n");
}

type Property = SchemaNode;

function typeOf(property: Property): string {
  if (property.enum !== undefined) return property.enum.map((value) => JSON.stringify(value)).join(", ");
  if (property.const !== undefined) return JSON.stringify(property.const);
  if (property.anyOf !== undefined) return [...new Set(property.anyOf.map(typeOf))].join(" or ");
  if (property.title !== undefined) return property.title;
  // Bytes, or text such as 1MiB: nothing else takes both.
  if (Array.isArray(property.type)) return "size";
  const name = typeof property.type === "string" ? property.type : "any";
  const low = property.minimum ?? Number.MIN_SAFE_INTEGER;
  const high = property.maximum ?? Number.MAX_SAFE_INTEGER;
  const range =
    low > Number.MIN_SAFE_INTEGER && high < Number.MAX_SAFE_INTEGER
      ? ` ${low} to ${high}`
      : low > Number.MIN_SAFE_INTEGER
        ? ` of at least ${low}`
        : "";
  return name === "array" && property.items !== undefined
    ? `list of ${typeOf(property.items)}`
    : `${name}${range}`;
}

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");

/** A row for each key that has a value, in the order of the schema. */
function rows(path: string, property: Property): string[] {
  const nested = property.properties ?? property.allOf?.[0]?.properties;
  const of = typeof property.additionalProperties === "object" ? property.additionalProperties : undefined;
  const here: string[] = [];
  if (nested === undefined || property.description !== undefined) {
    const { description = "" } = property;
    const fallback =
      property.default === undefined || nested !== undefined ? "" : `\`${JSON.stringify(property.default)}\``;
    here.push(
      `| \`${path}\` | ${cell(nested === undefined ? typeOf(property) : "section")} | ${cell(fallback)} | ${cell(description)} |`,
    );
  }
  for (const [key, inner] of Object.entries(nested ?? {}))
    here.push(...rows(path === "" ? key : `${path}.${key}`, inner));
  if (of !== undefined) here.push(...rows(`${path}.<name>`, of));
  if (property.items?.properties !== undefined) here.push(...rows(`${path}[]`, property.items));
  return here;
}

function configurationPage(): string {
  const schema = configJsonSchema();
  return [
    "# Configuration",
    MADE,
    "",
    "Files: `--config FILE`, or `./weir.yaml`, or `/etc/weir/weir.yaml`, whichever there is first; then `conf.d/*.yaml` beside it in the",
    "order of their names. Later ones win: mappings are merged key by key, lists and plain values are replaced. Every key has a",
    "default; an empty file is a valid one. Unknown keys are refused.",
    "",
    "Values may hold `${VAR}`, `${VAR:-default}` and `${VAR:?error}` from the environment (in quotes within `{ }` and `[ ]`); `$$` is a dollar.",
    "`WEIR__BROKER__PORT=1884` overrides `broker.port`. A size is a number of bytes, or text such as `100KiB` or `1GB`; a duration is text such as",
    "`500ms`, `30s`, `12h` or `1d`.",
    "",
    "**Secrets** come from files: `password: ${file:/etc/weir/cloud.password}`. It works in every option, a plugin's own too. A relative name is",
    "looked for in systemd's `$CREDENTIALS_DIRECTORY`, else beside the configuration; a final line end is not part of it. What came from a",
    "file, and every value of a key such as `password` or `token`, is hidden in `weir config print`, the log and `weir diag`. No password has a default.",
    "",
    "`weir config validate` lists every error at once, with file, line, path and what was expected; `weir config print` shows what is in",
    "force; `weir config schema` is for editors (`# yaml-language-server: $schema=weir.schema.json` as the first line of weir.yaml).",
    "",
    "What has taken effect is kept in the data folder (`last-good.json`). When the files are broken at a start (half-written, without a byte",
    "after a write to a full disk), Weir starts with that one and says so; a file that is missing is not replaced by it.",
    "",
    "| key | type | default | meaning |",
    "| --- | --- | --- | --- |",
    ...rows("", schema).filter((row) => !row.startsWith("| `` |")),
    "",
  ].join("\n");
}

function manifestPage(): string {
  const schema = z.toJSONSchema(manifestSchema, { io: "input", unrepresentable: "any" }) as Property;
  return [
    "# plugin.yaml",
    MADE,
    "",
    "The author's side of a plugin ([plugins.md](plugins.md)): it only requests. Unknown keys are refused.",
    "",
    "| key | type | default | meaning |",
    "| --- | --- | --- | --- |",
    ...rows("", schema).filter((row) => !row.startsWith("| `` |")),
    "",
    "Limits that neither plugin.yaml nor weir.yaml names:",
    "",
    ...Object.entries(DEFAULT_LIMITS).map(([name, value]) => `- \`${name}\`: ${value}`),
    "",
  ].join("\n");
}

function metricsPage(): string {
  const rows = [...METRICS].map(
    ([name, { type, help, labels }]) =>
      `| \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(", ")} | ${help} |`,
  );
  return [
    "# Metrics",
    MADE,
    "",
    "`GET http://127.0.0.1:7780/metrics` (`http` in weir.yaml), in Prometheus' text format; the same page on the data folder's socket. Stages are those",
    "of `weir ledger`: `in = out + lost + dropped + rejected + held`, each in its own unit. Counters of the outbox live in its database and survive",
    "restarts, the others start at 0 with the agent. A metric has 200 sets of labels at most; what comes after them is added up under `overflow`.",
    "Histograms have buckets from 1 ms to 60 s.",
    "",
    "| metric | type | labels | meaning |",
    "| --- | --- | --- | --- |",
    ...rows,
    "",
    "## What to alarm on",
    "",
    "| expression | says |",
    "| --- | --- |",
    "| `sum(increase(weir_outbox_lost_samples_total[1h])) > 0` | data was lost to damage |",
    "| `sum(increase(weir_source_dropped_messages_total[10m])) > 0` | QoS 0 is shed: the pipeline is behind |",
    "| `weir_outbox_oldest_age_seconds > 3600` | an uplink has not taken anything for an hour |",
    "| `weir_outbox_used_bytes / weir_outbox_limit_bytes > 0.8` | the outbox is nearly full: its policy is about to drop |",
    "| `weir_ready == 0` | nothing can be taken in; `/readyz` says why |",
    "| `weir_plugin_up == 0` | a plugin is out; `weir plugin ls` says why |",
    "| `weir_config_last_reload_success == 0` | the files differ from what runs, and are not valid |",
    "| `increase(weir_devices_unkept_samples_total[1h]) > 0` | more devices or metrics than `last` holds: look for one that invents names |",
    "| `weir_loop_lag_seconds > 1` | the main loop stood still |",
    "",
    "Remedies for each are in [operations.md](operations.md).",
    "",
  ].join("\n");
}

const check = process.argv.includes("--check");
let stale = 0;
for (const [file, text] of [
  ["docs/errors.md", errorsPage()],
  ["docs/configuration.md", configurationPage()],
  ["docs/plugin-manifest.md", manifestPage()],
  ["docs/metrics.md", metricsPage()],
] as const) {
  const path = new URL(`../${file}`, import.meta.url);
  let before = "";
  try {
    before = readFileSync(path, "utf8");
  } catch {
    // not there yet
  }
  if (before === text) continue;
  if (check) {
    process.stderr.write(`${file} is not what the code says: run \`npm run gen\`\n`);
    stale += 1;
  } else {
    writeFileSync(path, text);
    process.stdout.write(`wrote ${file}\n`);
  }
}
process.exitCode = stale === 0 ? 0 : 1;
