/** How connections to brokers are secured: files from the configuration, read anew for each connection. */
import { readFileSync } from "node:fs";
import type { TlsFiles } from "./tls-options.ts";

/** What `tls.connect` and mqtt.js take. */
export interface TlsOptions {
  readonly minVersion: "TLSv1.2";
  readonly servername?: string;
  readonly ALPNProtocols?: string[];
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

/**
 * Options for one connection to `host`: TLS 1.2 at the least, the certificate checked. The files are read now, so that one
 * that was renewed is used without a restart.
 * @throws the file system's error when a file can't be read
 */
export function tlsOptions({ ca, cert, key, servername, alpn }: TlsFiles, host: string): TlsOptions {
  // RFC 6066, 3: an address is no server name.
  const isAddress = /^[\d.]+$|:/.test(host);
  return {
    minVersion: "TLSv1.2",
    ...(isAddress && servername === undefined ? {} : { servername: servername ?? host }),
    ...(alpn === undefined ? {} : { ALPNProtocols: [alpn] }),
    ...(ca === undefined ? {} : { ca: readFileSync(ca) }),
    ...(cert === undefined ? {} : { cert: readFileSync(cert) }),
    ...(key === undefined ? {} : { key: readFileSync(key) }),
  };
}
