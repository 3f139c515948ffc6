/** Texts as C keeps them. */

/** The text before the first NUL, or all of the bytes; what isn't UTF-8 in it becomes U+FFFD. */
export function untilNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
}
