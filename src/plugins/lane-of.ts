/** Which lane a device belongs to. Read by the agent and, for what they keep, by the lanes themselves. */

/** One lane of a plugin. */
export interface LanePlace {
  readonly index: number;
  readonly count: number;
}

/** FNV-1a over UTF-16 code units, 32 bits: draft-eastlake-fnv, with units for octets. */
function hashOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** Every bit of the result depends on every bit given: the finaliser of MurmurHash3 (A. Appleby). */
function mix(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * The lane of a device, 0 to `count - 1`: the one with the highest weight (rendezvous hashing, Thaler and Ravishankar 1998).
 * When `count` grows by one, only about one device in `count + 1` moves, and only to the new lane.
 */
export function laneOf(device: string, count: number): number {
  if (count === 1) return 0;
  const hash = hashOf(device);
  let lane = 0;
  let heaviest = -1;
  for (let at = 0; at < count; at++) {
    const weight = mix(hash ^ Math.imul(at + 1, 0x9e3779b1));
    if (weight <= heaviest) continue;
    heaviest = weight;
    lane = at;
  }
  return lane;
}
