/** What is found on this machine, as a commented configuration: `weir init`. */
import { existsSync, statfsSync } from "node:fs";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { kernelSupport, obstacle } from "./addon/index.ts";
import { defaultGatewayName } from "./config/gateway.ts";
import { formatSize } from "./core/units.ts";

const SERVICE_DATA = "/var/lib/weir";
const CONNECT_MS = 1_000;
const LARGEST_OUTBOX = 2 ** 30;
const MQTT = 1883;

/** A configuration's text, and what it was made from in a line each. */
export interface Surroundings {
  readonly text: string;
  readonly found: readonly string[];
}

/** Looks for brokers, networks, capabilities and room; changes nothing. `own`: where the broker of a running agent listens, whose port is free for it. */
export async function lookAround(own: string | undefined): Promise<Surroundings> {
  const taken = own !== `127.0.0.1:${MQTT}` && (await answers(MQTT));
  const secure = await answers(8883);
  const addresses = Object.entries(networkInterfaces()).flatMap(([name, list]) =>
    (list ?? []).flatMap(({ address, family, internal }) =>
      internal || family !== "IPv4" ? [] : [`${address} (${name})`],
    ),
  );
  const probes = obstacle(kernelSupport()) === undefined;
  const dir = existsSync(SERVICE_DATA) ? SERVICE_DATA : "./.weir";
  const { bavail, bsize } = statfsSync(existsSync(SERVICE_DATA) ? SERVICE_DATA : ".");
  const free = bavail * bsize;
  const outboxMiB = Math.max(16, Math.floor(Math.min(LARGEST_OUTBOX, free / 4) / 2 ** 20));
  const found = [
    `brokers here: ${[taken ? "port 1883" : "", secure ? "port 8883" : ""].filter(Boolean).join(", ") || "none"}`,
    `networks: ${addresses.join(", ") || "none"}`,
    `kernel probes: ${probes ? "can run" : "can't run as this user, or on this kernel (see `weir check`)"}`,
    `data folder: ${dir}, ${formatSize(free)} free`,
  ];
  const text = `# Weir's configuration. Every key has a default: \`weir config default\` prints them, docs/configuration.md explains them.
# A change takes effect at once; what is not valid is refused and said in the log. More files go to conf.d/*.yaml beside this one.

# The gateway's name is part of every topic. Without it the name is made from this machine's hardware, so an image that is cloned
# to many machines gives each its own: here ${defaultGatewayName()}
#gateway:
#  name: ${defaultGatewayName()}

data:
  dir: ${dir}

broker:
  enabled: true
${taken ? "  # Port 1883 is taken by another broker; it is a source below.\n  port: 1884" : `  port: ${MQTT}`}
  # Devices on the network reach it when it listens on one of: ${addresses.join(", ") || "(no network now)"}
  # Give the devices identities first (docs/specs/broker.md): no password has a default.
  host: 127.0.0.1

sources:
  kernel:
    # ${found[2]}
    enabled: true
  system:
    enabled: true
${
  taken
    ? `  mqtt:
    # The broker that runs on this machine. Common devices and bridges are known by their topics; rules say which others there are.
    here:
      url: mqtt://127.0.0.1:${MQTT}
      #username: weir
      #password: \${file:here.password}
      #rules: [{ topic: "factory/{device}/data" }, { preset: plain }, { preset: zigbee2mqtt }]
`
    : ""
}
outbox:
  # normal: what is acknowledged survives a killed agent; full: also a power cut.
  sync: normal
  maxBytes: ${outboxMiB === 1024 ? "1GiB" : `${outboxMiB}MiB`}

# The local broker gets everything; so does each uplink that is added, once it can be reached.
#uplinks:
#  cloud:
#    url: mqtts://broker.example:8883
#    username: gateway
#    password: \${file:cloud.password}
#    streams: [alarm, data]
`;
  return { text, found };
}

/** Whether something listens on a local port. */
function answers(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ host: "127.0.0.1", port, timeout: CONNECT_MS });
  socket.on("connect", () => resolve(true));
  socket.on("error", () => resolve(false));
  socket.on("timeout", () => resolve(false));
  return promise.finally(() => socket.destroy());
}
