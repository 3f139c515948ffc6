import { globSync } from "node:fs";

/** What to put before a command for another clock: faketime's library alone, since its command would stay as a parent and take a kill for itself. */
export const fakeTime = (offset: string): readonly string[] => {
  const [library = ""] = globSync("/usr/lib/*/faketime/libfaketimeMT.so.1");
  return ["env", `LD_PRELOAD=${library}`, `FAKETIME=${offset}`, "FAKETIME_DONT_FAKE_MONOTONIC=1"];
};
