/** The gateway's default name: `<host>-<4 hex of the hardware id>`, the same on every start, another on a cloned disk. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { hostname } from "node:os";

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8").replaceAll("\0", "").trim() || undefined;
  } catch {
    return undefined;
  }
};

/**
 * Something that stays with the hardware and not with the disk image: the board's serial number, the lowest
 * address of a physical network interface; and only then the machine id, which a cloned image carries along.
 */
function hardwareId(): string {
  const serial = read("/sys/firmware/devicetree/base/serial-number");
  if (serial !== undefined) return serial;
  const net = "/sys/class/net";
  const addresses = (existsSync(net) ? readdirSync(net) : [])
    .filter((name) => existsSync(`${net}/${name}/device`))
    .map((name) => read(`${net}/${name}/address`))
    .filter((address) => address !== undefined && address !== "00:00:00:00:00:00");
  return addresses.sort()[0] ?? read("/etc/machine-id") ?? hostname();
}

/** The default gateway name; only characters that can stand in a topic level and a client id. */
export function defaultGatewayName(): string {
  const host =
    hostname()
      .split(".", 1)[0]
      ?.toLowerCase()
      .replace(/[^a-z0-9-]/g, "-")
      .slice(0, 32) ?? "";
  const suffix = createHash("sha256").update(hardwareId()).digest("hex").slice(0, 4);
  return `${host || "weir"}-${suffix}`;
}
