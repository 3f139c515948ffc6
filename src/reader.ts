/**
 * Reads what people write into files, the configuration and plugins, in a thread that ends when there is nothing more to read:
 * the schemas that it is checked by take 10 MiB and a fifth of the start, and an agent that runs has no use for them.
 */
import { extname } from "node:path";
import { MessageChannel, Worker } from "node:worker_threads";
import { messageOf, WeirError } from "./core/errors.ts";
import type { PluginFiles } from "./plugins/files.ts";
import type { Answer, Readings } from "./reader-worker.ts";

/** More is often wanted soon: plugins after the configuration. In milliseconds. */
const REST_MS = 2_000;

/** The thread, or the next one. */
export class Reader implements Readings {
  #worker: Worker | undefined;
  #asking = 0;
  #rest: NodeJS.Timeout | undefined;

  readonly chosen: Readings["chosen"] = (...args) => this.#ask("chosen", args);
  readonly loaded: Readings["loaded"] = (...args) => this.#ask("loaded", args);
  readonly discover: PluginFiles["discover"] = (...args) => this.#ask("discover", args);
  readonly kept: PluginFiles["kept"] = (...args) => this.#ask("kept", args);
  readonly config: PluginFiles["config"] = (...args) => this.#ask("config", args);

  /** Starts the thread, if there is none: what is asked for next then comes sooner. */
  wake(): Worker {
    clearTimeout(this.#rest);
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(new URL(`./reader-worker${extname(import.meta.filename)}`, import.meta.url));
    this.#worker = worker;
    // Nobody stays for it; whoever asks waits at the port of the answer.
    worker.unref();
    worker.once("exit", () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    return worker;
  }

  async #ask<K extends keyof Readings>(
    name: K,
    args: Parameters<Readings[K]>,
  ): Promise<Awaited<ReturnType<Readings[K]>>> {
    const worker = this.wake();
    this.#asking += 1;
    const { port1, port2 } = new MessageChannel();
    let ended: ((thrown?: unknown) => void) | undefined;
    try {
      return await new Promise<Awaited<ReturnType<Readings[K]>>>((resolve, reject) => {
        ended = (thrown) => reject(new Error(`the reader's thread has ended: ${messageOf(thrown)}`));
        worker.once("error", ended);
        worker.once("exit", ended);
        port1.once("message", (answer: Answer<K>) => {
          if (answer.ok) resolve(answer.value);
          else if (answer.code === undefined) reject(new Error(answer.message));
          else reject(new WeirError(answer.code, answer.message));
        });
        worker.postMessage({ name, args, port: port2 }, [port2]);
      });
    } finally {
      port1.close();
      if (ended !== undefined) worker.off("error", ended).off("exit", ended);
      this.#asking -= 1;
      if (this.#asking === 0) this.#rest = setTimeout(() => this.#end(), REST_MS).unref();
    }
  }

  #end(): void {
    const worker = this.#worker;
    // Whoever asks from here on gets another one.
    this.#worker = undefined;
    void worker?.terminate();
  }
}
