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

/** Keeps from run to run how large the plugin host was at its start, as text. */
export interface SizeStore {
  load(): Promise<string | undefined>;
  save(size: string): Promise<void>;
}

/** How room is made. */
export interface HostRoomOptions {
  /** lets {@link HostRoom.begin} start a host before it is known what is to run */
  readonly sizes?: SizeStore;
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
  #runtime: Promise<HostRuntime> | undefined;
  #pool: HostPool | undefined;
  /** begun as large as the last run's, and not needed yet */
  #early: { readonly pool: HostPool; readonly size: string } | undefined;
  /** nothing is begun any more */
  #isMade = false;

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

  /** Starts a host as large as the last run's was, while it is found out what is to run: mostly the same. Throws like `spawnJailed`. */
  async begin(): Promise<void> {
    const size = await this.#options.sizes?.load();
    const known = readSize(size);
    if (size === undefined || known === undefined || this.#isMade) return;
    const runtime = await this.#prepareRuntime();
    if (this.#isMade) return;
    const pool = new HostPool({ ...this.#options, ...known, runtime });
    this.#early = { pool, size };
    pool.begin();
  }

  /** Ends what was begun and is not needed. */
  async dismiss(): Promise<void> {
    this.#isMade = true;
    const early = this.#early;
    this.#early = undefined;
    await early?.pool.stop();
  }

  /** Makes room for all of these at a time. */
  async make(occupants: readonly Occupant[], settings: Settings): Promise<void> {
    const { slots = SLOTS, ...options } = this.#options;
    const isFirst = !this.#isMade;
    this.#isMade = true;
    const runtime = await this.#prepareRuntime();
    let places = slots;
    let memoryMiB = HOST_BASE_MIB;
    for (const { candidate, vetted } of occupants) {
      const lanes = settings.lanes(candidate);
      places += lanes;
      memoryMiB += lanes * (WORKER_MIB + vetted.memories * settings.limits(candidate).memoryMiB);
    }
    const size = sizeText({ slots: places, memoryMiB });
    if (this.#early?.size === size) {
      this.#pool = this.#early.pool;
      this.#early = undefined;
      return;
    }
    if (this.#pool !== undefined) this.#pool.resize(memoryMiB, places);
    else this.#pool = new HostPool({ ...options, slots: places, memoryMiB, runtime });
    // Another than this would be walls of another size.
    await this.dismiss();
    // Not kept is no more than a start that takes a little longer.
    if (isFirst) void options.sizes?.save(size).catch(() => {});
  }

  #prepareRuntime(): Promise<HostRuntime> {
    this.#runtime ??= hostRuntime(this.#options.cacheDir).catch((thrown: unknown) => {
      this.#runtime = undefined;
      throw thrown;
    });
    return this.#runtime;
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
    await this.dismiss();
    await this.#pool?.stop();
  }
}

/** What a host can hold. */
interface Size {
  readonly slots: number;
  readonly memoryMiB: number;
}

const sizeText = ({ slots, memoryMiB }: Size): string => `${slots} ${memoryMiB}`;

/** The size that a text says; undefined for any other text. */
function readSize(text: string | undefined): Size | undefined {
  const [slots = 0, memoryMiB = 0] = text?.split(" ").map(Number) ?? [];
  const size = { slots, memoryMiB };
  return slots > 0 && memoryMiB > 0 && sizeText(size) === text ? size : undefined;
}
