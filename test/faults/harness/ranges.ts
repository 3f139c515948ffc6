/** A set of whole numbers that mostly follow one another, kept as ranges: 200,000 numbers in a few entries. */
export class Ranges {
  /** [first, last], in order of arrival; a number that continues the newest range extends it */
  readonly all: [number, number][] = [];
  size = 0;

  add(n: number): void {
    this.size += 1;
    const newest = this.all.at(-1);
    if (newest !== undefined && newest[1] + 1 === n) newest[1] = n;
    else this.all.push([n, n]);
  }
}
