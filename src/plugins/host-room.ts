/** Room in the plugin host: it is made as large as what runs in it needs, and new versions beside that. */
import { WeirError } from "../core/errors.ts";
import type { KnownPlugin } from "./discover.ts";
import { HostPool, type Slot } from "./host.ts";
import type { JailLayer, LayerReport } from "./jail-report.ts";
import { type HostRuntime, hostRuntime } from "./runtime.ts";
import type { Settings } from "./settings.ts";
import type { Vetted } from "./vet.ts";

/** Instances that one host can start in its life beyond those it begins with: restarts use them up, then a fresh host takes over. */
const SLOTS = 24;
/** Node itself, the host's main thread, and what is on its way. */
const HOST_BASE_MIB = 160;
/** A worker's heap and its frames, besides the component's memories. */
const WORKER_MIB = 64;

/** A plugin that runs or is to run. */
export interface Occupant {
  readonly candidate: KnownPlugin;
  readonly vetted: Pick<Vetted, "memories">;
}

/** How room is made. */
export interface HostRoomOptions {
  /** `<data>/cache` */
  readonly cacheDir: string;
  /** instances that one process can start beyond those it begins with; default 24 */
  readonly slots?: number;
  readonly onOutput: (line: string) => void;
  /** a process starts nothing more, and still runs something */
  readonly onRetired: () => void;
  /** tests only */
  readonly without?: readonly JailLayer[];
}

/** The processes that run plugins, sized to them. There is none before there is a plugin to run. */
export class HostRoom {
  readonly #options: HostRoomOptions;
  #runtime: HostRuntime | undefined;
  #pool: HostPool | undefined;

  constructor(options: HostRoomOptions) {
    this.#options = options;
  }

  /** How the walls around the plugin host stand; undefined while there is none. */
  get layers(): LayerReport | undefined {
    return this.#pool?.layers;
  }

  /** Process ids of the plugin host. */
  get pids(): readonly number[] {
    return this.#pool?.pids ?? [];
  }

  /** Makes room for all of these at a time. */
  async make(occupants: readonly Occupant[], settings: Settings): Promise<void> {
    const { slots = SLOTS, ...options } = this.#options;
    this.#runtime ??= await hostRuntime(options.cacheDir);
    let places = slots;
    let memoryMiB = HOST_BASE_MIB;
    for (const { candidate, vetted } of occupants) {
      const lanes = settings.lanes(candidate);
      places += lanes;
      memoryMiB += lanes * (WORKER_MIB + vetted.memories * settings.limits(candidate).memoryMiB);
    }
    if (this.#pool !== undefined) this.#pool.resize(memoryMiB, places);
    else this.#pool = new HostPool({ ...options, slots: places, memoryMiB, runtime: this.#runtime });
  }

  /**
   * A place for an instance.
   * @throws WeirError `plugin.failed` before room was made, and after {@link HostRoom.stop}
   */
  lease(): Slot {
    if (this.#pool === undefined) throw new WeirError("plugin.failed", "the plugin host has stopped");
    return this.#pool.lease();
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    await this.#pool?.stop();
  }
}
