/** A tar archive (ustar, POSIX.1-1988) of small text files, in memory. */

const BLOCK = 512;

/** The archive's bytes. Names are at most 100 bytes. */
export function tar(files: ReadonlyMap<string, string>, timeS: number): Buffer {
  const parts: Buffer[] = [];
  for (const [name, text] of files) {
    const body = Buffer.from(text);
    parts.push(header(name, body.byteLength, timeS), body, Buffer.alloc(-body.byteLength & (BLOCK - 1)));
  }
  // Two empty blocks end it.
  parts.push(Buffer.alloc(2 * BLOCK));
  return Buffer.concat(parts);
}

function header(name: string, size: number, timeS: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, length: number): string => `${value.toString(8).padStart(length - 1, "0")}\0`;
  block.write(name, 0, 100);
  block.write(octal(0o600, 8), 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(Math.floor(timeS), 12), 136);
  block.write("        ", 148);
  block.write("0", 156);
  block.write("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}
