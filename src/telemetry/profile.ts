/** Looks into the running process: where its main thread spends time, and what its heap holds. */

let running = false;

/**
 * Samples the main thread's stack every millisecond for so long; costs a few percent meanwhile.
 * @returns a `.cpuprofile`, as Chrome's developer tools and speedscope read it
 * @throws Error while another one runs
 */
export async function cpuProfile(seconds: number): Promise<object> {
  if (running) throw new Error("a profile is being taken already");
  running = true;
  const { Session } = process.getBuiltinModule("node:inspector/promises");
  const session = new Session();
  try {
    session.connect();
    await session.post("Profiler.enable");
    await session.post("Profiler.start");
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    return (await session.post("Profiler.stop")).profile;
  } finally {
    session.disconnect();
    running = false;
  }
}

/** Figures of the main thread's heap, in bytes; and of the process. */
export function heapReport(): object {
  const { getHeapSpaceStatistics, getHeapStatistics } = process.getBuiltinModule("node:v8");
  const { heapSizeLimit, ...rest } = camel(getHeapStatistics());
  const spaces = getHeapSpaceStatistics().map((space) => camel(space));
  return { heapSizeLimit, ...rest, spaces, process: process.memoryUsage() };
}

/** V8's own names, in the house's form. */
function camel(fields: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name.replace(/_(\w)/g, (_whole, letter: string) => letter.toUpperCase()),
      value,
    ]),
  );
}
