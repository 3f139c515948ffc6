import { stringify } from "yaml";
import { configJsonSchema } from "../config/json-schema.ts";
import { defaults } from "../config/load.ts";
import { withoutSecrets } from "../config/secrets.ts";
import { loadWithPlugins } from "../plugin-settings.ts";
import type { Invocation } from "./commands.ts";
import { configOf } from "./context.ts";
import { green, line, printJson } from "./output.ts";

/** `weir config validate [file]` */
export async function validate({ positionals }: Invocation): Promise<number> {
  const { file } = await loadWithPlugins(positionals[0], process.env);
  line(`${green("valid")}: ${file ?? "no file, defaults"}`);
  return 0;
}

/** `weir config print` */
export function print(invocation: Invocation): Promise<number> {
  const { config, secrets } = configOf(invocation);
  show(withoutSecrets(config, secrets), invocation);
  return Promise.resolve(0);
}

/** `weir config default` */
export function printDefaults(invocation: Invocation): Promise<number> {
  show(withoutSecrets(defaults(), new Set()), invocation);
  return Promise.resolve(0);
}

/** `weir config schema` */
export function printSchema(): Promise<number> {
  process.stdout.write(`${JSON.stringify(configJsonSchema(), null, 2)}\n`);
  return Promise.resolve(0);
}

function show(config: unknown, { values }: Invocation): void {
  if (values["json"] === true) printJson(config);
  else process.stdout.write(stringify(config));
}
