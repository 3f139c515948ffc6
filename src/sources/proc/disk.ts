/** /proc/diskstats and /proc/self/mounts (Documentation/admin-guide/iostats.rst, fstab(5)). */
import { count, lines, words } from "./numbers.ts";

/** Sectors of /proc/diskstats are of this many bytes, whatever the disk's are. */
const SECTOR_BYTES = 512;
/** File systems that are on a disk of this machine: asking about others may wait for a network, or says nothing. */
const LOCAL = new Set([
  "bcachefs",
  "btrfs",
  "exfat",
  "ext2",
  "ext3",
  "ext4",
  "f2fs",
  "jffs2",
  "ntfs",
  "ntfs3",
  "ubifs",
  "vfat",
  "xfs",
  "zfs",
]);
const MOST_MOUNTS = 64;

/** Counters of one block device since boot. */
export interface DiskStat {
  readonly device: string;
  readonly reads: number;
  readonly writes: number;
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly readMs: number;
  readonly writeMs: number;
  /** milliseconds with at least one request under way */
  readonly busyMs: number;
}

/** Block devices that have been used, in the file's order. */
export function parseDiskstats(text: string): readonly DiskStat[] {
  const found: DiskStat[] = [];
  for (const line of lines(text)) {
    const [, , device, ...fields] = words(line);
    const [reads, , readSectors, readMs, writes, , writeSectors, writeMs, , busyMs] = fields.map(count);
    if (
      device === undefined ||
      reads === undefined ||
      readSectors === undefined ||
      readMs === undefined ||
      writes === undefined ||
      writeSectors === undefined ||
      writeMs === undefined ||
      busyMs === undefined ||
      reads + writes === 0
    )
      continue;
    const [readBytes, writeBytes] = [readSectors * SECTOR_BYTES, writeSectors * SECTOR_BYTES];
    found.push({ device, reads, writes, readBytes, writeBytes, readMs, writeMs, busyMs });
  }
  return found;
}

/** A mounted file system. */
export interface Mount {
  readonly device: string;
  readonly mountpoint: string;
}

/** Local file systems, each once (where it was mounted first), and the root whatever it is. */
export function parseMounts(text: string): readonly Mount[] {
  const found = new Map<string, Mount>();
  for (const line of lines(text)) {
    const [device, mountpoint, type] = words(line).map(unescapeMount);
    if (device === undefined || mountpoint === undefined || type === undefined || !mountpoint.startsWith("/"))
      continue;
    const wanted = LOCAL.has(type) || (mountpoint === "/" && type === "overlay");
    if (wanted && !found.has(device) && found.size < MOST_MOUNTS) found.set(device, { device, mountpoint });
  }
  return [...found.values()];
}

/** Blanks and backslashes stand as three octal digits (fstab(5)). */
const unescapeMount = (text: string): string =>
  text.replace(/\\([0-3][0-7]{2})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
