/**
 * What Weir says to systemd (sd_notify(3)) when it runs as a service of `Type=notify`: that it is ready, that its main loop turns,
 * that it stops. Without NOTIFY_SOCKET in the environment every method does nothing.
 */
import { getSystemErrorName } from "node:util";
import { addonState } from "./index.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** The service manager, from the side of the service. Belongs to the thread whose loop the watchdog is to watch. */
export class ServiceManager {
  readonly #address: string | undefined;
  readonly #watchdogMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param environment NOTIFY_SOCKET, and WATCHDOG_USEC with WATCHDOG_PID; as sd_watchdog_enabled(3) reads them
   * @param pid of this process: a watchdog meant for another one isn't ours to feed
   */
  constructor(environment: Environment, pid: number = process.pid) {
    this.#address = environment["NOTIFY_SOCKET"] || undefined;
    const periodUs = Number(environment["WATCHDOG_USEC"]);
    const ours = environment["WATCHDOG_PID"] === undefined || Number(environment["WATCHDOG_PID"]) === pid;
    this.#watchdogMs = ours && periodUs > 0 ? periodUs / 1000 : undefined;
  }

  /**
   * Everything has started; from here on the watchdog, where there is one, hears from this thread's loop twice in its time.
   * @returns why the manager could not be told; undefined when it was, or there is none
   */
  ready(): string | undefined {
    const problem = this.#say("READY=1");
    if (problem === undefined && this.#address !== undefined && this.#watchdogMs !== undefined) {
      this.#timer = setInterval(() => this.#say("WATCHDOG=1"), this.#watchdogMs / 2);
    }
    return problem;
  }

  /** The end has begun. The watchdog is fed on: it also ends a stop that hangs. */
  stopping(): void {
    this.#say("STOPPING=1");
  }

  /** Nothing more is said. */
  close(): void {
    clearInterval(this.#timer);
  }

  #say(message: string): string | undefined {
    if (this.#address === undefined) return undefined;
    const addon = addonState();
    if (!addon.ok) return addon.reason;
    const error = addon.native.notifyService(this.#address, message);
    return error === 0 ? undefined : `${this.#address}: ${getSystemErrorName(-error)}`;
  }
}
