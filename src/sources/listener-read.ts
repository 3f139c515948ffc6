/**
 * Reading into one buffer. Of each piece that a stream gives, Node asks for 64 KiB, copies what came, makes three objects and a turn of its
 * task queue: a tenth of what a message costs when few of them come at a time. Its option `onread` does without, but only for sockets
 * that a program opens itself; here those that a server has accepted get what that option sets.
 */
import { Socket } from "node:net";

/** As much as Node reads at once. */
const READ_BYTES = 64 * 1024;

/** Where a socket with `onread` keeps its buffer and its callback. */
interface Places {
  readonly buffer: PropertyKey;
  readonly callback: PropertyKey;
}

const shared = Buffer.allocUnsafeSlow(READ_BYTES);
let places: Places | undefined;

/** Looked up in a socket that has them: they have no names that Node promises. */
function findPlaces(): Places | undefined {
  const callback = (): boolean => true;
  const socket = new Socket({ onread: { buffer: shared, callback } });
  const holds = (what: unknown): PropertyKey | undefined =>
    Reflect.ownKeys(socket).find((key) => Reflect.get(socket, key) === what);
  const found = { buffer: holds(shared), callback: holds(callback) };
  return found.buffer === undefined || found.callback === undefined
    ? undefined
    : { buffer: found.buffer, callback: found.callback };
}

/**
 * Has `take` called with what an accepted socket receives, which is gone when it returns: the next read, of any socket, writes over it.
 * @returns false where that can't be had, as over TLS or in another Node: then it is to be read as a stream
 */
export function readShared(socket: Socket, take: (bytes: Buffer) => void): boolean {
  if ("encrypted" in socket) return false;
  places ??= findPlaces();
  const handle: unknown = Reflect.get(socket, "_handle");
  if (places === undefined || typeof handle !== "object" || handle === null) return false;
  const useBuffer: unknown = Reflect.get(handle, "useUserBuffer");
  if (typeof useBuffer !== "function") return false;
  Reflect.set(socket, places.buffer, shared);
  Reflect.set(socket, places.callback, (size: number): boolean => {
    take(shared.subarray(0, size));
    return true;
  });
  useBuffer.call(handle, shared);
  // Its end is the stream's.
  socket.resume();
  return true;
}
