// An agent of its own for the jail tests, to be killed or run as another user: `jail-parent.ts stay` starts an inmate, prints
// its pid and stays; `jail-parent.ts attempt '<attempts>'` prints as JSON what came of them without --permission.
import { attempt, imprison } from "./jail-helpers.ts";

const [mode, list] = process.argv.slice(2);
if (mode === "stay") {
  const jailed = imprison([]);
  await jailed.layers;
  process.stdout.write(`${jailed.child.pid}\n`);
} else {
  process.stdout.write(JSON.stringify(await attempt(JSON.parse(list ?? "[]"), { without: ["permission"] })));
}
