/** One look at the table of TCP connections, for `weir probe connections`: needs no agent. */
import { type Connections, openConnections, type Unavailable } from "./addon/connections.ts";
import { messageOf, WeirError } from "./core/errors.ts";

/** The table as it is now, how it was read, and why not through the iterator. */
export interface ConnectionReport extends Connections {
  readonly via: "iterator" | "sock_diag";
  readonly why: Unavailable | undefined;
}

/** @throws WeirError `probe.unavailable` when there is neither way */
export function readConnections(): ConnectionReport {
  const opened = openConnections();
  if (!opened.on)
    throw new WeirError("probe.unavailable", `no connections: ${opened.reason}; ${opened.remedy}`);
  const { table } = opened;
  try {
    return { ...table.read(), via: table.via, why: table.why };
  } catch (thrown) {
    throw new WeirError("probe.unavailable", `no connections: ${messageOf(thrown)}`, { cause: thrown });
  } finally {
    table.close();
  }
}
