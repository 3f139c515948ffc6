/** The test's end of the judge, which is a process of its own: judge-process.ts. */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";

/** What the judge found. Everything but `copies` and `historical` is to be 0, or equal to what the fault allows. */
export interface Verdict {
  readonly acknowledged: number;
  /** different (device, sequence) that came */
  readonly arrived: number;
  /** acknowledged to the device, and not here */
  readonly missing: number;
  readonly examples: readonly string[];
  /** numbers that came under two keys */
  readonly doubled: number;
  /** numbers that were never sent */
  readonly invented: number;
  /** values whose stamp is not theirs */
  readonly altered: number;
  /** values that came after a later one of their device, among live ones and among backlog */
  readonly disorder: number;
  /** batches that came again under their key: as allowed */
  readonly copies: number;
  /** of these, with other bytes */
  readonly changed: number;
  /** values that came as backlog */
  readonly historical: number;
  /** samples of stream `data` that gap messages announced */
  readonly gapSamples: number;
}

interface VerdictQuestion {
  readonly ask: "verdict";
  /** by device: ranges, inclusive */
  readonly acknowledged: Readonly<Record<string, readonly (readonly [number, number])[]>>;
  /** by device: every number below was sent */
  readonly sent: Readonly<Record<string, number>>;
}

interface HasQuestion {
  readonly ask: "has";
  readonly device: string;
  readonly n: number;
}

/** What can be asked of the judge. */
export type Question = { readonly id: number } & (
  | VerdictQuestion
  | HasQuestion
  | { readonly ask: "batches" }
);

/** A running judge. */
export class Judge {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: unknown) => void>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", ({ id, answer }: { id: number; answer: unknown }) => {
      this.#waiting.get(id)?.(answer);
      this.#waiting.delete(id);
    });
  }

  /** Starts one and resolves when it has subscribed. `wrap` is put before the command. */
  static async start(url: string, wrap: readonly string[] = []): Promise<Judge> {
    const script = join(import.meta.dirname, "judge-process.ts");
    const [program = process.execPath, ...rest] = [...wrap, process.execPath, script, url, "gw"];
    const judge = new Judge(spawn(program, rest, { stdio: ["ignore", "inherit", "inherit", "ipc"] }));
    await new Promise((resolve) => judge.#waiting.set(0, resolve));
    return judge;
  }

  #ask(question: VerdictQuestion | HasQuestion | { readonly ask: "batches" }): Promise<unknown> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.send({ id, ...question });
    });
  }

  verdict(acknowledged: VerdictQuestion["acknowledged"], sent: VerdictQuestion["sent"]): Promise<Verdict> {
    return this.#ask({ ask: "verdict", acknowledged, sent }) as Promise<Verdict>;
  }

  /** Whether a number of a device has come. */
  async has(device: string, n: number): Promise<boolean> {
    return (await this.#ask({ ask: "has", device, n })) === true;
  }

  /** Different batches that came. */
  async batches(): Promise<number> {
    return Number(await this.#ask({ ask: "batches" }));
  }

  stop(): void {
    if (this.#child.connected) this.#child.disconnect();
  }
}
