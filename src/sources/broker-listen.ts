/** The embedded broker's ports: plain TCP, and TLS with files that may be replaced while it runs. */
import { readFile, stat } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { errnoOf, messageOf, WeirError } from "../core/errors.ts";
import type { BrokerOptions } from "./broker-options.ts";

/** Longest that a TLS handshake may take, and the time until CONNECT, in milliseconds. */
export const CONNECT_MS = 10_000;
/** How often the files of certificates are looked at, in milliseconds. */
const LOOK_MS = 30_000;
const SOCKETS = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 };
const CODES = new Map<
  string | undefined,
  "broker.port-in-use" | "broker.port-denied" | "broker.address-unavailable"
>([
  ["EADDRINUSE", "broker.port-in-use"],
  ["EACCES", "broker.port-denied"],
  ["EPERM", "broker.port-denied"],
  ["EADDRNOTAVAIL", "broker.address-unavailable"],
  ["EAFNOSUPPORT", "broker.address-unavailable"],
  ["ENOTFOUND", "broker.address-unavailable"],
  ["EAI_AGAIN", "broker.address-unavailable"],
]);

/** What a port reports. */
export interface PortEvents {
  accept(socket: Socket): void;
  /** A connection was turned away before it got that far. */
  refused(why: string): void;
  error(message: string): void;
}

type Tls = NonNullable<BrokerOptions["tls"]>;

/**
 * Listens without TLS, on at most `connections` at a time.
 * @throws WeirError `broker.port-in-use`, `broker.port-denied`, `broker.address-unavailable` or `broker.listen`
 */
export async function listenPlain(
  { host, port, limits }: BrokerOptions,
  events: PortEvents,
): Promise<Server> {
  const server = createServer(SOCKETS, (socket) => events.accept(socket));
  await listen(server, host, port, limits.connections, events);
  return server;
}

/**
 * Listens with TLS (1.2 at least). Certificate, key and authority are read again when their files change.
 * @throws WeirError as {@link listenPlain}, and `broker.tls` when the files can't be used
 */
export async function listenTls(tls: Tls, connections: number, events: PortEvents): Promise<Server> {
  let seen = await timesOf(tls);
  const server = await attempt(tls, async () =>
    // Loaded only where it is used: 4 MB.
    process.getBuiltinModule("node:tls").createServer(
      {
        ...SOCKETS,
        ...(await filesOf(tls)),
        minVersion: "TLSv1.2",
        handshakeTimeout: CONNECT_MS,
        requestCert: tls.clients !== "none",
        rejectUnauthorized: tls.clients === "required",
      },
      (socket) => events.accept(socket),
    ),
  );
  server.on("tlsClientError", (error) => events.refused(`TLS: ${messageOf(error)}`));
  const look = async (): Promise<void> => {
    const times = await timesOf(tls);
    if (times === seen) return;
    seen = times;
    const files = await filesOf(tls);
    await attempt(tls, async () => server.setSecureContext({ ...files, minVersion: "TLSv1.2" }));
  };
  const timer = setInterval(() => {
    look().catch((thrown: unknown) => events.error(`the certificate stays as it was: ${messageOf(thrown)}`));
  }, LOOK_MS);
  timer.unref();
  server.on("close", () => clearInterval(timer));
  try {
    await listen(server, tls.host, tls.port, connections, events);
  } catch (thrown) {
    clearInterval(timer);
    throw thrown;
  }
  return server;
}

async function filesOf({ cert, key, ca }: Tls): Promise<{ cert: Buffer; key: Buffer; ca?: Buffer }> {
  const files = { cert: await readFile(cert), key: await readFile(key) };
  return ca === undefined ? files : { ...files, ca: await readFile(ca) };
}

/** When the files were changed last; a file that is missing counts as well. */
async function timesOf({ cert, key, ca }: Tls): Promise<string> {
  const files = ca === undefined ? [cert, key] : [cert, key, ca];
  const times = files.map((path) => stat(path).then(({ mtimeMs }) => mtimeMs, errnoOf));
  return (await Promise.all(times)).join();
}

async function attempt<T>({ cert, key }: Tls, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    // A file that can't be read is named by the system; what OpenSSL says names none.
    const where = errnoOf(cause)?.startsWith("ERR_") === false ? "" : `cert ${cert} with key ${key}: `;
    throw new WeirError("broker.tls", `${where}${messageOf(cause)}`, { cause });
  }
}

async function listen(
  server: Server,
  host: string,
  port: number,
  connections: number,
  events: PortEvents,
): Promise<void> {
  server.maxConnections = connections;
  server.on("drop", () => events.refused("there are too many connections"));
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      const code = CODES.get(errnoOf(cause)) ?? "broker.listen";
      const why =
        code === "broker.port-in-use" ? "is taken by another program" : `can't be had: ${cause.message}`;
      reject(new WeirError(code, `${host}:${port} ${why}`, { cause }));
    });
    server.listen(port, host, resolve);
  });
  server.removeAllListeners("error");
  server.on("error", (error) => events.error(error.message));
}
