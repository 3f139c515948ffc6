/** Every error that Weir makes itself has a code of this table; docs/errors.md is generated from it. */

/** What the pipeline does about an error: try again, set the input aside for good, or stop. */
export type Disposition = "retry" | "reject" | "fatal";

interface ErrorEntry {
  readonly disposition: Disposition;
  /** what happened, in a sentence */
  readonly what: string;
  /** what a person can do about it */
  readonly remedy: string;
}

/** The table of codes, sorted. */
export const ERRORS = {
  "broker.address-unavailable": {
    disposition: "retry",
    what: "This machine has no such address to listen on.",
    remedy:
      "Set broker.host (or broker.tls.host) to an address of this machine, 127.0.0.1, or 0.0.0.0 for all.",
  },
  "broker.identities": {
    disposition: "retry",
    what: "The file of the embedded broker's identities can't be used.",
    remedy: "Check the file that broker.identitiesFile names; `weir passwd --name` prints a line for it.",
  },
  "broker.listen": {
    disposition: "retry",
    what: "The embedded broker can't listen.",
    remedy: "The message names the system's reason; check broker.host and broker.port.",
  },
  "broker.port-denied": {
    disposition: "retry",
    what: "Weir may not listen on that port.",
    remedy:
      "Take a port above 1023, give the service CAP_NET_BIND_SERVICE, or lower net.ipv4.ip_unprivileged_port_start.",
  },
  "broker.port-in-use": {
    disposition: "retry",
    what: "The embedded broker's port is taken by another program.",
    remedy: "Stop the other broker, or set broker.port in weir.yaml, or broker.enabled: false.",
  },
  "broker.tls": {
    disposition: "retry",
    what: "The embedded broker's certificate, key or authority can't be used.",
    remedy: "Check the files that broker.tls names, and that the key belongs to the certificate.",
  },
  "cli.agent-unreachable": {
    disposition: "retry",
    what: "No running agent answers on the data folder's socket.",
    remedy:
      "Start one with `weir run`, name its data folder with --data-dir, or ask as the user that it runs as, or root.",
  },
  "cli.usage": {
    disposition: "reject",
    what: "The command line is not understood.",
    remedy: "See `weir --help`.",
  },
  "config.invalid": {
    disposition: "reject",
    what: "The configuration has errors.",
    remedy: "Each is listed with its file, line and path; `weir config default` prints every key.",
  },
  "data.locked": {
    disposition: "fatal",
    what: "Another agent holds the data folder.",
    remedy: "Stop it, or give this one a data folder of its own (data.dir or --data-dir).",
  },
  "data.unusable": {
    disposition: "fatal",
    what: "The data folder can't be made, or can't be written to.",
    remedy:
      "Give it, with everything in it, to the user that Weir runs as (`chown -R`), on a file system that can be written to; or set data.dir.",
  },
  "frame.invalid": {
    disposition: "reject",
    what: "A frame or block breaks an invariant of docs/specs/frame.md.",
    remedy: "The message names the row or entry; mend the plugin or sender that made it.",
  },
  "http.port-in-use": {
    disposition: "retry",
    what: "The port of /metrics and /api/v1 is taken by another program.",
    remedy: "Stop that one, or set http.port in weir.yaml, or http.enabled: false.",
  },
  "outbox.closed": {
    disposition: "retry",
    what: "The outbox is stopping.",
    remedy: "Nothing is lost: what was not committed was not acknowledged.",
  },
  "outbox.commit": {
    disposition: "retry",
    what: "A transaction failed, as on a full or read-only disk.",
    remedy: "Free space on the data folder's file system, or mend it; Weir tries again by itself.",
  },
  "outbox.corrupt": {
    disposition: "retry",
    what: "The database was found damaged.",
    remedy:
      "Weir moves it to quarantine/ and goes on with a new one; `sqlite3 <file> .recover` reads what is left.",
  },
  "outbox.full": {
    disposition: "retry",
    what: "The outbox is full, and an uplink's overflow policy is `pause`: nothing is taken in.",
    remedy: "It goes on by itself once that uplink has sent; else raise outbox.maxBytes or purge.",
  },
  "outbox.newer-schema": {
    disposition: "fatal",
    what: "The database was written by a newer Weir.",
    remedy: "Run that version, or start with another data folder.",
  },
  "plugin.failed": {
    disposition: "retry",
    what: "A plugin trapped, missed a deadline, broke its protocol, or its process ended.",
    remedy: "See `weir plugin ls` for the reason; the input runs once more on a fresh instance.",
  },
  "plugin.refused": {
    disposition: "reject",
    what: "A component did not pass vetting, or its manifest is not valid.",
    remedy: "The message names what is wrong; see docs/plugins.md.",
  },
  "probe.unavailable": {
    disposition: "reject",
    what: "A probe or profile can't be had on this machine, or by this user.",
    remedy: "The message names the reason and what to do; `weir check` looks at the machine as a whole.",
  },
  "uplink.refused": {
    disposition: "retry",
    what: "The broker refused a message and did not say that it is final.",
    remedy:
      "It is sent again; after five refusals it is set aside. The message carries the broker's reason code.",
  },
  "uplink.rejected": {
    disposition: "reject",
    what: "The broker refused a message for good.",
    remedy: "The message carries the broker's reason code; see `weir ledger`.",
  },
  "uplink.unavailable": {
    disposition: "retry",
    what: "The broker can't be reached, or did not acknowledge in time.",
    remedy: "Check its address and the network; batches wait in the outbox.",
  },
} as const;

/** Alarms that Weir raises itself, for the device `_gateway`; docs/operations.md says what to do about each. */
export const OWN_ALARMS = ["outbox-copied", "outbox-corrupt", "outbox-unwritable", "outbox-wal"] as const;
/** One of {@link OWN_ALARMS}. */
export type OwnAlarm = (typeof OWN_ALARMS)[number];

/** A code of {@link ERRORS}. */
export type ErrorCode = keyof typeof ERRORS;

const entries: Readonly<Record<ErrorCode, ErrorEntry>> = ERRORS;

/** An error with a code; the pipeline looks at {@link WeirError.disposition} alone. */
export class WeirError extends Error {
  override readonly name = "WeirError";
  readonly code: ErrorCode;

  /** `detail`: what exactly is wrong, for a person; without it the table's sentence stands. */
  constructor(code: ErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail ?? entries[code].what, options);
    this.code = code;
  }

  get disposition(): Disposition {
    return entries[this.code].disposition;
  }

  /** What a person can do about it. */
  get remedy(): string {
    return entries[this.code].remedy;
  }
}

/** The message of anything that was thrown; of what OpenSSL says, the words without its addresses and source files. */
export function messageOf(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  if (!("library" in thrown && "reason" in thrown)) return thrown.message;
  const { library, reason } = thrown;
  return typeof reason === "string" ? `${reason} (${String(library)})` : thrown.message;
}

/** The errno name (`ENOSPC`) of a system error, or undefined. */
export function errnoOf(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error) || !("code" in thrown)) return undefined;
  return typeof thrown.code === "string" ? thrown.code : undefined;
}
