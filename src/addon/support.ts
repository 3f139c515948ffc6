/** What this kernel and process allow, and why a probe can't run, in words that say what to do. */
import { existsSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { getSystemErrorName } from "node:util";
import type { NativeFailure } from "./native.ts";

/** Facts for `weir check`. */
export interface KernelSupport {
  /** as `uname -r` says it */
  readonly release: string;
  /** 5.17 or later: light skeletons with relocations done in the kernel */
  readonly recentEnough: boolean;
  /**
   * the kernel's description of its types is visible, in /sys/kernel/btf/vmlinux. The kernel itself relocates the probes, so that one which
   * has it and does not show it (a container without /sys) runs them; only the names of its enumerations are missing then
   */
  readonly btf: boolean;
  /** of the calling thread's effective capabilities; CAP_SYS_ADMIN stands for both */
  readonly capBpf: boolean;
  readonly capPerfmon: boolean;
}

/** Why something is off, and what a person can do about it. */
export interface Unavailable {
  readonly reason: string;
  readonly remedy: string;
}

const CAP_SYS_ADMIN = 21n;
const CAP_PERFMON = 38n;
const CAP_BPF = 39n;

/** The numbers of CAP_PERFMON and CAP_BPF. */
export const PROBE_CAPABILITIES: readonly number[] = [Number(CAP_PERFMON), Number(CAP_BPF)];

/** Whether the calling thread has the capability that stands for both. */
export const holdsSysAdmin = (): boolean => ((effectiveCapabilities() >> CAP_SYS_ADMIN) & 1n) === 1n;

function effectiveCapabilities(): bigint {
  try {
    const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/thread-self/status", "utf8"))?.[1];
    return hex === undefined ? 0n : BigInt(`0x${hex}`);
  } catch {
    return 0n;
  }
}

/** Reads the facts anew at each call. */
export function kernelSupport(): KernelSupport {
  const version = release();
  const [major = 0, minor = 0] = version.split(/[.-]/).map(Number);
  const capabilities = effectiveCapabilities();
  const has = (bit: bigint): boolean => ((capabilities >> bit) & 1n) === 1n;
  return {
    release: version,
    recentEnough: major > 5 || (major === 5 && minor >= 17),
    btf: existsSync("/sys/kernel/btf/vmlinux"),
    capBpf: has(CAP_BPF) || has(CAP_SYS_ADMIN),
    capPerfmon: has(CAP_PERFMON) || has(CAP_SYS_ADMIN),
  };
}

/** What stands in the way of every probe, known before one is tried; undefined when nothing is. */
export function obstacle(support: KernelSupport): Unavailable | undefined {
  if (!support.recentEnough) {
    return { reason: `kernel ${support.release} is older than 5.17`, remedy: "upgrade the kernel" };
  }
  const missing = [support.capBpf ? "" : "CAP_BPF", support.capPerfmon ? "" : "CAP_PERFMON"].filter(
    (name) => name !== "",
  );
  if (missing.length > 0) {
    const remedy = "run Weir as root, or give the service CAP_BPF and CAP_PERFMON (AmbientCapabilities=)";
    return { reason: `${missing.join(" and ")} missing`, remedy };
  }
  return undefined;
}

/** Turns a failed load into words. `btf`: of {@link KernelSupport}. */
export function explain(failure: NativeFailure, btf = true): Unavailable {
  const name = getSystemErrorName(-failure.errno);
  const log = failure.log.trim().split("\n").at(-1) ?? "";
  const reason = `${name}: could not ${failure.step}${log === "" ? "" : ` (${log})`}`;
  // What the kernel answers when it is to look a type up and has none (bpf_find_btf_id, kernel/bpf/btf.c).
  if (name === "EINVAL" && !btf)
    return {
      reason: "the kernel does not describe its types (no /sys/kernel/btf/vmlinux)",
      remedy: "use a kernel with CONFIG_DEBUG_INFO_BTF",
    };
  switch (name) {
    case "EPERM":
      return {
        reason,
        remedy: "allow the bpf() system call: a container's seccomp profile or kernel lockdown refuses it",
      };
    case "ENOSYS":
      return {
        reason,
        remedy: "this system has no bpf() system call (emulation, or a sandbox): run on the machine itself",
      };
    case "ENOENT":
    case "ESRCH":
      return {
        reason,
        remedy: "this kernel lacks a tracepoint that the probe needs: use a distribution's standard kernel",
      };
    case "ENOMEM":
    case "E2BIG":
      return { reason, remedy: "free memory, or choose a smaller ring" };
    default:
      return { reason, remedy: "this kernel refuses the probe: please report it with the kernel's version" };
  }
}

/** The same for what perf_event_open(2) refuses. */
export function explainPerf({ errno, step }: Pick<NativeFailure, "errno" | "step">): Unavailable {
  const name = getSystemErrorName(-errno);
  switch (name) {
    case "ENOENT":
    case "EOPNOTSUPP":
      return {
        reason: `this machine shows no such counters (${name})`,
        remedy: "nothing to mend: virtual machines often hide the processor's counters",
      };
    case "EACCES":
    case "EPERM":
      return {
        reason: `${name}: could not ${step}: CAP_PERFMON missing, or perf_event_open() refused`,
        remedy:
          "run Weir as root, or give the service CAP_PERFMON (AmbientCapabilities=); in a container, allow perf_event_open()",
      };
    case "ENOSYS":
      return {
        reason: `ENOSYS: could not ${step}`,
        remedy: "this system has no perf_event_open(): run on the machine itself, with CONFIG_PERF_EVENTS",
      };
    case "EMFILE":
      return { reason: `EMFILE: could not ${step}`, remedy: "raise the limit of open files (LimitNOFILE=)" };
    default:
      return { reason: `${name}: could not ${step}`, remedy: "please report it with the kernel's version" };
  }
}
