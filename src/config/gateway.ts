/**
 * The gateway's default name: `<host>-<4 hex of the hardware id>`. It is the same on every start, and another on other
 * hardware: an image or a data folder that is copied to another machine does not bring the name along.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8").replaceAll("\0", "").trim() || undefined;
  } catch {
    return undefined;
  }
};

/**
 * Something that stays with the hardware and not with the disk image: the board's serial number; the lowest permanent
 * address of a network interface that is built in, else of one that is plugged in; and only then the machine id, which a
 * cloned image carries along. What only root can read (DMI) is not looked at: the name must not depend on the user.
 */
export function hardwareId(root = "/"): string {
  const serial = read(join(root, "sys/firmware/devicetree/base/serial-number"));
  if (serial !== undefined) return serial;
  const [address] = addresses(join(root, "sys/class/net"));
  return address ?? read(join(root, "etc/machine-id")) ?? hostname();
}

/** Permanent addresses of physical interfaces: those built in first, each kind sorted. */
function addresses(net: string): string[] {
  const found: { readonly address: string; readonly plugged: boolean }[] = [];
  for (const name of list(net)) {
    const address = read(join(net, name, "address"));
    const bus = target(join(net, name, "device/subsystem"));
    if (address === undefined || bus === undefined || /^(?:00:)*00$/.test(address)) continue;
    // addr_assign_type: 0 is the hardware's own (linux/netdevice.h); others change from boot to boot.
    if ((read(join(net, name, "addr_assign_type")) ?? "0") !== "0") continue;
    found.push({ address, plugged: bus.endsWith("/usb") });
  }
  found.sort((a, b) => Number(a.plugged) - Number(b.plugged) || (a.address < b.address ? -1 : 1));
  return found.map(({ address }) => address);
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function target(link: string): string | undefined {
  try {
    return realpathSync(link);
  } catch {
    return undefined;
  }
}

/** The default gateway name; only characters that can stand in a topic level and a client id. */
export function defaultGatewayName(root = "/"): string {
  const host =
    hostname()
      .split(".", 1)[0]
      ?.toLowerCase()
      .replace(/[^a-z0-9-]/g, "-")
      .slice(0, 32) ?? "";
  const suffix = createHash("sha256").update(hardwareId(root)).digest("hex").slice(0, 4);
  return `${host || "weir"}-${suffix}`;
}
