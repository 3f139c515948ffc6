/** /proc/net/dev, snmp, snmp6, netstat and softnet_stat (proc(5), net/core/net-procfs.c). */
import { count, lines, words } from "./numbers.ts";

const MOST_INTERFACES = 64;

/** Counters of one direction since the interface came up. */
export interface Traffic {
  readonly bytes: number;
  readonly packets: number;
  readonly errors: number;
  readonly dropped: number;
}

/** Counters of one network interface. */
export interface InterfaceStat {
  readonly device: string;
  readonly receive: Traffic;
  readonly transmit: Traffic;
}

/** Interfaces other than the loopback that have seen a packet, in the file's order. */
export function parseNetDev(text: string): readonly InterfaceStat[] {
  const found: InterfaceStat[] = [];
  for (const line of lines(text)) {
    const colon = line.lastIndexOf(":");
    const device = line.slice(0, Math.max(0, colon)).trim();
    const values = words(line.slice(colon + 1)).map(count);
    const [receive, transmit] = [traffic(values, 0), traffic(values, 8)];
    if (device === "" || device === "lo" || receive === undefined || transmit === undefined) continue;
    if (receive.packets + transmit.packets > 0 && found.length < MOST_INTERFACES)
      found.push({ device, receive, transmit });
  }
  return found;
}

function traffic(values: readonly (number | undefined)[], at: number): Traffic | undefined {
  const [bytes, packets, errors, dropped] = values.slice(at, at + 4);
  if (bytes === undefined || packets === undefined || errors === undefined || dropped === undefined)
    return undefined;
  return { bytes, packets, errors, dropped };
}

/** The counters of one group of /proc/net/netstat or /proc/net/snmp, such as `TcpExt`: a line of names, then one of values. */
export function parseNetstat(text: string, group: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  const [names = [], values = []] = lines(text)
    .filter((line) => line.startsWith(`${group}:`))
    .map(words);
  for (const [i, name] of names.entries()) {
    const value = count(values[i]);
    if (i > 0 && value !== undefined) found.set(name, value);
  }
  return found;
}

/** The counters of /proc/net/snmp6 by name: a line each. */
export function parseSnmp6(text: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const line of lines(text)) {
    const [name, amount] = words(line);
    const value = count(amount);
    if (name !== undefined && value !== undefined) found.set(name, value);
  }
  return found;
}

/** Packets that found a processor's backlog full, from /proc/net/softnet_stat: its second column, hexadecimal, a line a processor. */
export function parseSoftnetDrops(text: string): number {
  let drops = 0;
  for (const line of lines(text)) {
    const [, dropped = ""] = words(line);
    if (/^[0-9a-f]{8}$/.test(dropped)) drops += Number.parseInt(dropped, 16);
  }
  return drops;
}
