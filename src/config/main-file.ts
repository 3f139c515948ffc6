/** Where the configuration's main file is. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";

/** Where the file lies when nothing names one and the working folder has none: the service's. */
const SERVICE_FILE = "/etc/weir/weir.yaml";

/** Where the main file is looked for when nothing names one, absolute. */
export const mainFilePlaces = (): readonly string[] => [resolve("weir.yaml"), SERVICE_FILE];

/** The file that counts: the one named, `./weir.yaml`, or the service's. */
export function mainFile(named: string | undefined): string | undefined {
  return named === undefined ? mainFilePlaces().find((path) => existsSync(path)) : resolve(named);
}
