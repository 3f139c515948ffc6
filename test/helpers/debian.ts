/** A clean Debian to install into, and Weir's packages for it. */
import { spawnSync } from "node:child_process";
import { existsSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { hasProgram } from "./agent.ts";

/** Made once, and kept. */
const CLEAN = "build/debian-bookworm";
const MIRROR = "http://deb.debian.org/debian";
const PROGRAMS = ["debootstrap", "dpkg-deb", "unshare", "chroot", "npm", "gcc", "g++"];

/** Why tests with a Debian of their own can't run here; they take minutes, so only with WEIR_LONG=1. */
export function debianObstacle(programs: readonly string[] = []): string | undefined {
  if (process.env["WEIR_LONG"] !== "1") return "only with WEIR_LONG=1";
  if (process.getuid?.() !== 0) return "needs root";
  const lacks = [...PROGRAMS, ...programs].find((program) => !hasProgram(program));
  return lacks === undefined ? undefined : `no ${lacks}`;
}

/** Fills the folder `root` with a clean Debian; gives the reason when there is none to be had. */
export function cleanDebian(root: string): string | undefined {
  if (!existsSync(CLEAN)) {
    rmSync(`${CLEAN}.new`, { recursive: true, force: true });
    const include = "--include=libatomic1,libstdc++6,systemd";
    const { status, stdout } = spawnSync(
      "debootstrap",
      ["--variant=minbase", include, "bookworm", `${CLEAN}.new`, MIRROR],
      { encoding: "utf8", timeout: 240_000 },
    );
    if (status !== 0)
      return `debootstrap made no root${status === null ? " in time" : ""}: ${stdout.trim().split("\n").at(-1)}`;
    renameSync(`${CLEAN}.new`, CLEAN);
  }
  for (const [program = "", ...args] of [
    ["cp", "-a", `${CLEAN}/.`, root],
    ["chmod", "755", root],
  ])
    if (spawnSync(program, args).status !== 0) throw new Error(`${program} ${args.join(" ")} failed`);
  return undefined;
}

/** Makes packages of these versions in `<root>/root`. */
export function makePackages(root: string, versions: readonly string[]): void {
  for (const version of versions) {
    const made = spawnSync("node", ["scripts/deb.mjs", "--version", version, join(root, "root")], {
      encoding: "utf8",
    });
    if (made.status !== 0) throw new Error(made.stderr);
  }
}

/** Where {@link makePackages} has put one, seen from inside the root. */
export const packageFile = (version: string): string =>
  `/root/weir_${version}_${process.arch === "x64" ? "amd64" : "arm64"}.deb`;
