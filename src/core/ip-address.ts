/** IP addresses as text. */

/**
 * An address of 16 bytes in network order: an IPv4 one mapped into IPv6 as IPv4, IPv6 as RFC 5952 says it (the first of the
 * longest runs of zero groups is `::`).
 */
export function ipAddress(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  if (view.getBigUint64(0) === 0n && view.getUint32(8) === 0xffff) return bytes.subarray(12, 16).join(".");
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(2 * i));
  let [from, length] = [0, 1];
  for (let at = 0; at < 8; at++) {
    let run = 0;
    while (groups[at + run] === 0) run += 1;
    if (run > length) [from, length] = [at, run];
  }
  const text = (part: readonly number[]): string => part.map((group) => group.toString(16)).join(":");
  return length < 2 ? text(groups) : `${text(groups.slice(0, from))}::${text(groups.slice(from + length))}`;
}

/** Whether a host name or address can only be reached from this machine. */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
