/** What was committed last, so that a disk that loses what it said was stored is found out, and the loss counted. */
import type { StageCount } from "../core/ledger.ts";

/** Chunks that are remembered: a second's at full rate. */
const MOST = 1_024;

/** A chunk that was committed. */
export interface Commit {
  readonly ticket: number;
  readonly count: StageCount;
  readonly rows: number;
}

/** The latest commits, oldest first. */
export class RecentCommits {
  #commits: Commit[] = [];

  note(commit: Commit): void {
    // Now and then half of them, so that it costs nothing.
    if (this.#commits.length === MOST) this.#commits = this.#commits.slice(MOST / 2);
    this.#commits.push(commit);
  }

  /** Counts as lost what the outbox no longer has: `stored` is the greatest ticket there. Returns how many samples. */
  after(stored: number): number {
    const kept = this.#commits.findLastIndex(({ ticket }) => ticket <= stored) + 1;
    let lost = 0;
    for (const { count, rows } of this.#commits.splice(kept)) {
      count.out -= rows;
      count.lost += rows;
      lost += rows;
    }
    return lost;
  }
}
