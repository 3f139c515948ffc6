import { stringify } from "yaml";
import { defaults, loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import type { Invocation } from "./commands.ts";
import { configOf } from "./context.ts";
import { green, line, printJson } from "./output.ts";

/** `weir config validate [file]` */
export function validate({ positionals }: Invocation): Promise<number> {
  const { file } = loadConfig(positionals[0], process.env);
  line(`${green("valid")}: ${file ?? "no file, defaults"}`);
  return Promise.resolve(0);
}

/** `weir config print` */
export function print(invocation: Invocation): Promise<number> {
  show(withoutSecrets(configOf(invocation).config), invocation);
  return Promise.resolve(0);
}

/** `weir config default` */
export function printDefaults(invocation: Invocation): Promise<number> {
  show(defaults(), invocation);
  return Promise.resolve(0);
}

function show(config: Config, { values }: Invocation): void {
  if (values["json"] === true) printJson(config);
  else process.stdout.write(stringify(config));
}

/** The same with every password hidden. */
function withoutSecrets<T>(value: T): T {
  const hidden = JSON.stringify(value, (key, inner: unknown) =>
    key === "password" && inner !== undefined
      ? "(hidden)"
      : inner instanceof Map
        ? Object.fromEntries(inner)
        : inner,
  );
  return JSON.parse(hidden);
}
