/** Memory that is given back when it is done with: what waits for the collector would be tens of megabytes at full rate. */

/** Frees a view's memory at once, where the view is all of it: a part of something larger, such as Node's pool, is not its own. */
export function freeNow({ buffer, byteLength }: ArrayBufferView): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}
